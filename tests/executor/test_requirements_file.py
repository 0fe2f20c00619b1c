from __future__ import annotations

import pytest

from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.requirements import Wanted, read
from robocompute_protocol.causes import Cause


def wanted(**files: str) -> Wanted:
    texts = {name.replace("__", "/") + ".txt": content for name, content in files.items()}
    return read("r.txt", lambda path: texts[path])


def test_names_are_installed_and_comments_are_not():
    found = wanted(r="# top\nnumpy>=1.26  # why\n\nPillow[extra]==10.0 ; python_version > '3'\n")
    assert found.install == ("numpy>=1.26", "Pillow[extra]==10.0 ; python_version > '3'")
    assert found.left_out == ()


def test_what_every_sandbox_has_is_left_out_and_said():
    lines = (
        "chisel", "Aspara==1.2", "git+https://host.invalid/x/chisel.git",
        "-e git+https://host.invalid/x/aspara.git#egg=aspara",
        "chisel @ git+https://host.invalid/x/chisel.git@main",
    )  # fmt: skip
    found = wanted(r="\n".join(lines))
    assert found.install == ()
    assert found.left_out == lines


def test_a_name_that_only_begins_alike_is_installed():
    assert wanted(r="chisel-tools\naspara_x").install == ("chisel-tools", "aspara_x")


def test_index_options_have_no_effect_and_are_said():
    found = wanted(r="--index-url https://evil.invalid/simple\n-f /etc\n--pre\nnumpy")
    assert found.install == ("numpy",)
    assert len(found.left_out) == 3


def test_included_files_and_constraints_of_the_upload_count():
    found = wanted(
        r="-r sub/more.txt\n--constraint c.txt", sub__more="numpy\n-c ../c.txt", c="numpy<2"
    )
    assert found.install == ("numpy",)
    assert found.constraints == ("numpy<2",)


def test_lines_that_go_on_are_one_line():
    assert wanted(r="numpy \\\n >=1.26").install == ("numpy   >=1.26",)


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "./package",
        "/etc/passwd",
        "../x.whl",
        "file:///etc/passwd",
        "https://10.0.0.1/x.whl",
        "git+ssh://host.invalid/x.git",
        "x @ https://169.254.169.254/x.whl",
        "[bracket]",
    ],
)
def test_anything_that_would_choose_an_address_or_build_code_is_refused(line: str):
    with pytest.raises(PrepareFailed) as caught:
        wanted(r=line)
    assert caught.value.cause is Cause.ENVIRONMENT_FAILED


def test_files_that_include_each_other_end():
    with pytest.raises(PrepareFailed, match="too deeply"):
        wanted(r="-r r.txt")
