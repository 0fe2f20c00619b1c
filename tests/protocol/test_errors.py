import pytest

from robocompute_protocol import errors
from robocompute_protocol.errors import (
    ChainRefused,
    ConfigError,
    ProtocolError,
    RemoteProtocolError,
    RoboComputeError,
)


@pytest.mark.parametrize(
    "error",
    [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, RoboComputeError)
    ],
)
def test_every_error_has_one_line_a_code_and_an_exit_status(error: type[RoboComputeError]) -> None:
    raised = error("what to do next", details={"name": "value"})
    assert str(raised) == "what to do next"
    assert raised.code == error.code
    assert raised.exit_status in (1, 2)
    assert raised.details == {"name": "value"}


def test_a_remote_error_names_the_rule_and_the_class_keeps_its_code() -> None:
    assert RemoteProtocolError("no", code="bad_voucher").code == "bad_voucher"
    assert RemoteProtocolError("no").code == RemoteProtocolError.code == "protocol_remote"
    assert isinstance(RemoteProtocolError("no"), ProtocolError)


def test_a_refusal_of_the_chain_keeps_the_programs_number() -> None:
    assert ChainRefused("no", number=7).number == 7
    assert ConfigError("no").exit_status == 2
