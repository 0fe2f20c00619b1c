from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import chisel
from chisel import GPUType

ROOT = Path(__file__).parents[2]

JOB = """
import sys
sys.path[:0] = {paths!r}
import chisel, aspara
from chisel import capture_trace, GPUType
capture_trace(trace_name="x")(print)
foreign = sorted(
    name for name, module in sys.modules.items()
    if getattr(module, "__file__", None)
    and not module.__file__.startswith(({stdlib!r}, *{paths!r}))
)
heavy = sorted({{"httpx", "http.client", "ssl", "robocompute", "pathspec"}} & set(sys.modules))
print(foreign, heavy)
"""


def test_what_a_job_imports_is_the_standard_library_only() -> None:
    paths = [str(ROOT / "client"), str(ROOT / "tracker")]
    stdlib = str(Path(subprocess.__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-ISs", "-c", JOB.format(paths=paths, stdlib=stdlib)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("[] []\n", "")


def test_the_version_command_loads_next_to_nothing() -> None:
    code = (
        "import sys; sys.argv=['chisel','--version']; from chisel.cli import main; main();"
        "print(sorted({'robocompute','http.client','json','tomllib','pathspec','ssl'}"
        " & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "client")},
    )
    loaded = set(ran.stdout.splitlines()[-1].strip("[]").replace("'", "").split(", "))
    assert loaded <= {"", "json"}


def test_the_version_is_the_distributions() -> None:
    assert chisel.__version__ == version("robocompute")


def test_the_seeds_gpu_types_have_the_seeds_values() -> None:
    assert GPUType.A100_80GB_2.value == "A100-80GB:2"
    assert {gpu.name: gpu.value for gpu in GPUType if gpu.name.startswith("A100_80GB")} == {
        f"A100_80GB_{n}": f"A100-80GB:{n}" for n in (1, 2, 4, 8)
    }
