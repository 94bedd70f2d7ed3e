"""`opu-dfa defend`: a defence, its undefended twin, the attacks on both, and what they leave."""
