"""What `opu-dfa --help` prints."""

USAGE = """\
usage: opu-dfa <verb> [group=choice] [key=value] ...

verbs
  train      train a model by direct feedback alignment, beside backprop and frozen blocks
  forecast   continue a chaotic system or your series by a reservoir, beside its infinitely wide limit
  defend     train a classifier behind an optical medium, attack it and its undefended twin, say what holds
  predict    the learning curve of a device by theory, beside the one measured on its simulator
  study      list | run NAME | run all: a paper's theory next to an experiment, its claim checked
  device     info | calibrate | fidelity | serve | bench: look at an optical device, or offer it to others

  opu-dfa train                       the default: a small GPT on Python's documentation, no network, no device
  opu-dfa train steps=20              a short run
  opu-dfa train task.text=FILE        your own UTF-8 text
  opu-dfa train feedback=gaussian     a digital random matrix in place of the device
  opu-dfa train experiment=digits     another task with the model and settings that fit it (configs/experiment)
  opu-dfa train method=dfa            one method alone: dfa, bp or frozen
  opu-dfa train resume=RUN            continue an interrupted run
  opu-dfa train --multirun seed=0,1   a sweep, and one table of its jobs; hydra/launcher=joblib for jobs in parallel
  opu-dfa train --plan model=gpt-1b   memory, FLOPs, frames and energy of a run, before it runs
  opu-dfa train --cfg job             show every setting
  opu-dfa forecast                    the default: Kuramoto-Sivashinsky, a structured reservoir and its recurrent kernel
  opu-dfa forecast system=lorenz63    another system with the settings that fit it (configs/system)
  opu-dfa forecast series=FILE.csv    your own series, a row a step; or sunspots, co2, santa-fe
  opu-dfa forecast projection=opu     an optical reservoir; or dense, sparse
  opu-dfa forecast search=20          find better settings first, in 20 trials
  opu-dfa forecast resume=RUN         continue an interrupted run
  opu-dfa defend                      the default: scikit-learn's digits, no network, no device
  opu-dfa defend defense=cifar10      another task with the settings that fit it (configs/defense); cifar10-vgg16
  opu-dfa defend head=sign            an ablation: plain, sign, projection, intensity; or rule=straight-through
  opu-dfa defend adversarial=true     adversarial training beside it, under the same attacks
  opu-dfa defend 'attacks=[pgd,square]' 'eps=[2/255,8/255]'
                                      some attacks, and other budgets
  opu-dfa defend resume=RUN           continue an interrupted run
  opu-dfa predict                     the default: scikit-learn's digits, even against odd, the 8-bit noisy device
  opu-dfa predict images=fashion-mnist loss=square ridge=30 opu.preset=ideal
                                      other images, another reader and device; or x=X.npy y=y.npy
  opu-dfa predict task=dfa opu.preset=anchor encoding=threshold
                                      the course of optical DFA in a two-layer network, and the noise it tolerates
  opu-dfa predict resume=RUN          continue an interrupted run
  opu-dfa study list                  every study, its paper and its claim
  opu-dfa study run NAME size=paper seeds=5
                                      one study: result.json, figure.png; any of its parameters may be set: ridge=0.1
  opu-dfa study run all               all of them over all cores, on one page; resume=RUN continues
  opu-dfa device info                 what the simulated device is; opu=auto, lighton or remote for another
  opu-dfa device fidelity opu.preset=anchor
                                      how faithful it is, as numbers and a figure
  opu-dfa device serve                offer it on a local socket: opu=remote in any other run
"""
