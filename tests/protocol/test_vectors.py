from pathlib import Path

import pytest

from robocompute_protocol import vectors

FOLDER = Path(__file__).parents[2] / "protocol/vectors"


@pytest.mark.parametrize("name", vectors.FILES)
def test_the_vectors_in_the_repository_are_current(name: str) -> None:
    """Run ``python -m robocompute_protocol.vectors`` after a change that is meant."""
    assert (FOLDER / name).read_text("utf-8") == vectors.render(name)


def test_there_is_no_vector_file_that_nothing_writes(tmp_path: Path) -> None:
    vectors.write(tmp_path)
    assert {file.name for file in FOLDER.iterdir()} == {file.name for file in tmp_path.iterdir()}
