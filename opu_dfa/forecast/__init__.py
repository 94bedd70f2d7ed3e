"""`opu-dfa forecast`: a series, the models that continue it, the run over many starts, and what it leaves."""
