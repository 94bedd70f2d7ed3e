"""Each recommender trains by each method from its experiment's configuration."""

import json
import random
from pathlib import Path

import pytest


@pytest.fixture
def census(tmp_path: Path) -> Path:
    """A data folder with 300 census rows, in which the years of education decide."""
    draw = random.Random(0)
    rows = []
    for _ in range(300):
        years, sex = draw.randint(1, 16), draw.choice(["Male", "Female"])
        income = ">50K" if years > 11 else "<=50K"
        age = draw.randint(20, 70)
        rows.append(f"{age},Private,77516,some,{years},Divorced,Sales,Unmarried,White,{sex},0,0,40,Cuba,{income}")
    (tmp_path / "adult").mkdir()
    (tmp_path / "adult" / "adult.data").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["fm", "deepfm", "dcn", "autoint", "afn"])
def test_all_methods_train(opu_dfa, census, kind):
    small = [
        "steps=4",
        "sample_length=0",
        "batch_size=16",
        "model.hidden=16",
        "model.width=4",
        "task.n_bins=4",
        "optimizer.lr.frozen=0.01",  # four steps are too few to warm up to the experiment's
        "hydra.run.dir=run",
    ]
    code, _, complaint = opu_dfa("train", f"experiment=adult-{kind}", f"data.root={census}", "opu=simulated", *small)
    assert code == 0, complaint
    methods = json.loads((census / "run" / "summary.json").read_text())["methods"]
    assert set(methods) == {"dfa", "bp", "frozen"}
