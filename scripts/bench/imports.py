"""Seconds that importing the packages adds to importing torch: the least of several fresh processes each.

python scripts/bench/imports.py
"""

import subprocess
import sys


def seconds(imports: str, repeats: int = 7) -> float:
    code = f"import time; t = time.process_time(); import {imports}; print(time.process_time() - t)"
    runs = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)
    )
    return min(float(run.stdout) for run in runs)


def main() -> None:
    torch = seconds("torch")
    both = seconds("torch, hardware, opu_dfa")
    print(f"import torch {torch:.2f} CPU s; with hardware and opu_dfa {both:.2f} CPU s: {both - torch:.2f} s more")


if __name__ == "__main__":
    main()
