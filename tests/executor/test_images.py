"""Which images a stranger's job may have, without an engine."""

from __future__ import annotations

import pytest

from robocompute_node.executor.images import Allowed, ImageRefused, objection, volumes_of

OWNERS = Allowed(registries=("images.example:5000",), local=("localhost/mine:1",))


@pytest.mark.parametrize(
    "reference",
    [
        "python",
        "python:3.12-slim",
        "someone/some-thing_x:v1.0",
        "images.example:5000/team/image:tag",
        "someone/thing@sha256:" + "0" * 64,
        "someone/thing:tag@sha256:" + "a" * 64,
    ],
)
def test_names_without_a_host_and_with_an_allowed_one_may_be_pulled(reference: str) -> None:
    assert objection(reference, OWNERS) == ""


@pytest.mark.parametrize(
    "reference",
    [
        "other.example/image",
        "images.example/image",  # another port is another server
        "10.0.0.1:5000/image",
        "169.254.169.254/latest",
        "localhost/mine:2",
        "localhost:5000/image",
    ],
)
def test_no_word_of_a_strangers_makes_the_engine_connect_anywhere(reference: str) -> None:
    assert "pulls no images from" in objection(reference, OWNERS)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "UPPER/case",
        "a b",
        "image:",
        "image@sha256:abc",
        "image@md5:" + "0" * 32,
        "../../etc/passwd",
        "/image",
        "image?tag=x",
        "image#x",
        "image\n",
        "image:tag/../x",
        "http://host/image",
        "user:word@images.example:5000/image",
        "x" * 300 + "!",
        "0123456789ab",
        "f" * 64,
    ],
)
def test_what_is_no_name_of_an_image_is_refused(reference: str) -> None:
    assert objection(reference, OWNERS) != ""


def test_volumes_are_folders_inside_whatever_an_image_calls_them() -> None:
    assert volumes_of({}) == volumes_of({"Volumes": None}) == ()
    named: dict[str, object] = {"/data/": {}, "//data": {}, "/a/../b": {}, "plain": {}}
    assert volumes_of({"Volumes": named}) == ("/b", "/data", "/plain")


@pytest.mark.parametrize("named", [["/"], ["/a/.."], [f"/{number}" for number in range(17)]])
def test_no_image_gets_volumes_without_number_or_one_over_itself(named: list[str]) -> None:
    with pytest.raises(ImageRefused):
        volumes_of({"Volumes": {name: {} for name in named}})
