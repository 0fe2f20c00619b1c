from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

JOB = """
from chisel import capture_trace

@capture_trace(trace_name="inside")
def inside(x):
    return x.relu()

@capture_trace(trace_name="train", record_shapes=True)
def train():
    import torch
    x = torch.ones(64, 64)
    for _ in range(3):
        x = inside(x @ x)
    return float(x.sum() > 0)

@capture_trace(trace_name="fails")
def fails():
    import torch
    torch.ones(2) @ torch.ones(3)

print(train(), train())
try:
    fails()
except RuntimeError:
    print("raised")
"""


def events(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["traceEvents"]


@pytest.mark.torch
def test_a_body_that_imports_torch_is_traced_by_torchs_profiler(tmp_path: Path) -> None:
    runtime = os.environ.get("ROBOCOMPUTE_TEST_RUNTIME")
    if not runtime:
        pytest.skip("ROBOCOMPUTE_TEST_RUNTIME names no runtime with torch")
    ran = subprocess.run(
        [Path(runtime) / "base" / "bin" / "python", "-c", JOB],
        env={
            "PYTHONPATH": str(ROOT / "client"),
            "CHISEL_BACKEND_RUN": "1",
            "CHISEL_JOB_ID": "ab",
            "CHISEL_BACKEND_APP_NAME": "app",
            "CHISEL_VOLUME": str(tmp_path),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "1.0 1.0\nraised\n"
    traces = tmp_path / "app" / "ab" / "traces"
    names = {"train.json", "train-2.json", "fails.json", "inside.json"}
    assert names <= {path.name for path in traces.iterdir()}
    for name in ("train.json", "train-2.json"):
        found = {str(event.get("name")) for event in events(traces / name)}
        assert {"train", "aten::mm"} <= found
    assert "aten::mm" not in {str(e.get("name")) for e in events(traces / "inside.json")}
