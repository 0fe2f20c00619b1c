"""The cards of a machine: the same promises of the real driver and of a fake of its library."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from robocompute_node.cards import Card, CardGone, Reading, Tenant, class_of
from robocompute_node.nvml import MAX_TEMPERATURE_C, NvmlCards
from robocompute_protocol.messages import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.cards import Cards

SOURCE = Path(__file__).with_name("fake_nvml.c")
TWO = """
card GPU-11111111-1111-1111-1111-111111111111
name NVIDIA A100-SXM4-80GB
total_mib 81920
used_mib 512
busy 37
power_mw 91500
heat 41
ecc 0
retired 0
remap_pending 0
tenant 4711 300
tenant 4712 100
card GPU-22222222-2222-2222-2222-222222222222
name NVIDIA GeForce RTX 4090
total_mib 24564
"""
FIRST, SECOND = (f"GPU-{8 * d}-{4 * d}-{4 * d}-{4 * d}-{12 * d}" for d in "12")


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The fake in this process, under the name by which the real one is asked for.

    It stays loaded, and without the variable that names its text it says that there is no driver.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the fake NVML is written in C, and there is no compiler: install gcc")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run(
        [
            compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1",
            "-o", library, SOURCE,
        ],
        check=True,
    )  # fmt: skip
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@pytest.fixture
def machine(
    fake_library: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Cards]:
    """Make the fake tell of these cards from now on."""
    assert fake_library is None
    file = tmp_path / "cards"

    def tell(text: str) -> Cards:
        file.write_text(text)
        monkeypatch.setenv("FAKE_NVML", str(file))
        return NvmlCards()

    return tell


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.device)])
def cards(request: pytest.FixtureRequest) -> Cards:
    if request.param == "fake":
        return request.getfixturevalue("machine")(TWO)
    return NvmlCards()


# --- what holds of the fake and of a real driver ---------------------------------------------------


def test_every_card_has_a_name_memory_and_an_address_of_its_own(cards: Cards):
    found = cards.cards()
    assert found
    assert len({card.uuid for card in found}) == len(found)
    for card in found:
        assert card.uuid.startswith("MIG-" if card.slice_of else "GPU-")
        assert card.model
        assert card.memory_mib > 0
        assert card.resource_class in CLASSES


def test_a_reading_is_within_what_the_card_has(cards: Cards):
    for card in cards.cards():
        reading = cards.reading(card.uuid)
        assert 0 <= reading.memory_used_mib <= card.memory_mib
        assert reading.busy_percent is None or 0 <= reading.busy_percent <= 100
        assert reading.temperature_c is None or 0 < reading.temperature_c < 120


def test_whoever_uses_a_card_is_a_process_with_no_more_than_the_card_has(cards: Cards):
    for card in cards.cards():
        for tenant in cards.tenants(card.uuid):
            assert tenant.pid > 0
            assert 0 <= tenant.memory_mib <= card.memory_mib


def test_a_card_that_is_not_here_is_gone(cards: Cards):
    nowhere = "GPU-00000000-0000-0000-0000-000000000000"
    for ask in (cards.reading, cards.faults, cards.tenants):
        with pytest.raises(CardGone, match=nowhere):
            ask(nowhere)


# --- what only a fake can be made to say -----------------------------------------------------------


def test_without_a_driver_there_are_no_cards(fake_library: None):
    assert fake_library is None
    assert "FAKE_NVML" not in os.environ
    assert NvmlCards().cards() == ()


def test_cards_and_readings_are_what_the_driver_says(machine: Callable[[str], Cards]):
    cards = machine(TWO)
    first, second = cards.cards()
    assert first == Card(uuid=FIRST, model="NVIDIA A100-SXM4-80GB", memory_mib=81_920)
    assert (first.resource_class, second.resource_class) == ("a100", "rtx4090")
    assert cards.reading(FIRST) == Reading(
        busy_percent=37, memory_used_mib=512, power_mw=91_500, temperature_c=41
    )
    assert cards.tenants(FIRST) == (Tenant(4_711, 300), Tenant(4_712, 100))
    assert cards.faults(FIRST) == ()


def test_what_a_card_does_not_tell_is_unknown_and_no_fault(machine: Callable[[str], Cards]):
    cards = machine(TWO)
    assert cards.reading(SECOND) == Reading(
        busy_percent=None, memory_used_mib=0, power_mw=None, temperature_c=None
    )
    assert cards.faults(SECOND) == ()
    assert cards.tenants(SECOND) == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ecc 3", "3 uncorrected memory errors"),
        ("retired 1", "taken out of use at the next reset"),
        ("remap_pending 1", "taken out of use at the next reset"),
        ("remap_pending 0\nremap_failed 1", "cannot be taken out of use"),
        (f"heat {MAX_TEMPERATURE_C}", f"{MAX_TEMPERATURE_C} °C"),
    ],
)
def test_a_card_that_is_not_well_says_why(machine: Callable[[str], Cards], line: str, words: str):
    (fault,) = machine(f"card {FIRST}\nname NVIDIA H100\ntotal_mib 100\n{line}\n").faults(FIRST)
    assert words in fault


def test_a_card_that_fell_off_the_bus_hides_no_other(machine: Callable[[str], Cards]):
    cards = machine(TWO.replace("used_mib 512", "lost yes"))
    assert [card.uuid for card in cards.cards()] == [SECOND]
    with pytest.raises(CardGone, match="GPU is lost"):
        cards.reading(FIRST)


def test_a_card_in_slices_is_its_slices(machine: Callable[[str], Cards]):
    cards = machine(
        f"card {FIRST}\nname NVIDIA A100-SXM4-80GB\ntotal_mib 81920\necc 1\n"
        "slice MIG-a\nname NVIDIA A100-SXM4-80GB MIG 3g.40gb\ntotal_mib 40320\nused_mib 12\n"
        "slice MIG-b\nname NVIDIA A100-SXM4-80GB MIG 1g.10gb\ntotal_mib 9728\n"
        f"card {SECOND}\nname NVIDIA L4\ntotal_mib 23034\n"
    )
    first, second, third = cards.cards()
    assert (first.uuid, second.uuid, third.uuid) == ("MIG-a", "MIG-b", SECOND)
    assert (first.slice_of, third.slice_of) == (FIRST, "")
    # Somebody who asks for an A100 means a whole one.
    assert (first.resource_class, third.resource_class) == ("gpu-other", "l4")
    assert cards.reading("MIG-a").memory_used_mib == 12
    assert cards.faults("MIG-b") == cards.faults(FIRST) != ()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("Tesla T4", "t4"),
        ("Tesla V100-PCIE-16GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce GTX 1080", "gpu-other"),
        ("NVIDIA RTX A1000", "gpu-other"),
    ],
)
def test_a_product_name_has_one_class(model: str, expected: str):
    assert class_of(model) == expected
    assert expected in CLASSES
