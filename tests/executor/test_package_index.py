from __future__ import annotations

from pathlib import Path

from robocompute_node.executor.package_index import configured

ABSENT = Path("/nonexistent")


def test_a_pip_configuration_file_becomes_uv_settings(tmp_path: Path):
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://index.invalid/simple\nextra-index-url =\n"
        "    https://one.invalid\n    https://two.invalid\ntrusted-host = index.invalid\n"
        "timeout = 60\n"
    )
    found = configured({"PIP_CONFIG_FILE": str(file)}, ABSENT)
    assert found.env["UV_DEFAULT_INDEX"] == "https://index.invalid/simple"
    assert found.env["UV_INDEX"] == "https://one.invalid https://two.invalid"
    assert found.env["UV_INSECURE_HOST"] == "index.invalid"


def test_pip_variables_beat_files_and_uv_variables_beat_pip(tmp_path: Path):
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text("[install]\nindex-url = https://file.invalid\n")
    file_only = configured({}, tmp_path)
    assert file_only.env["UV_DEFAULT_INDEX"] == "https://file.invalid"
    pip = configured({"PIP_INDEX_URL": "https://pip.invalid"}, tmp_path)
    assert pip.env["UV_DEFAULT_INDEX"] == "https://pip.invalid"
    both = {"PIP_INDEX_URL": "https://pip.invalid", "UV_DEFAULT_INDEX": "https://uv.invalid"}
    assert configured(both, tmp_path).env["UV_DEFAULT_INDEX"] == "https://uv.invalid"


def test_local_folders_and_certificates_are_shown_to_the_build(tmp_path: Path):
    wheels, cert = tmp_path / "wheels", tmp_path / "ca.pem"
    wheels.mkdir()
    cert.write_text("")
    found = configured(
        {"PIP_FIND_LINKS": f"{wheels} /nonexistent/wheels", "PIP_CERT": str(cert)}, ABSENT
    )
    assert found.paths == (wheels, cert)
    assert found.env["UV_FIND_LINKS"] == str(wheels)


def test_nothing_else_of_the_daemons_environment_is_passed_on():
    found = configured({"AWS_SECRET": "x", "HTTPS_PROXY": "http://proxy.invalid"}, ABSENT)
    assert "AWS_SECRET" not in found.env
    # The build asks our proxy, and that one the daemon's.
    assert "HTTPS_PROXY" not in found.env
    assert found.way.through == ("proxy.invalid", 80)


def test_a_build_may_reach_the_indexes_that_are_configured_wherever_they_are():
    environment = {
        "UV_DEFAULT_INDEX": "http://localhost:3141/simple",
        "UV_INDEX": "mirror=https://one.invalid/simple",
        "UV_FIND_LINKS": "https://two.invalid:8443/wheels,/usr/wheels",
        "NO_PROXY": "Localhost, .invalid",
    }
    way = configured(environment, ABSENT).way
    assert way.named == {("localhost", 3141), ("one.invalid", 443), ("two.invalid", 8443)}
    assert way.public
    assert way.through is None
    assert way.direct == {"localhost", ".invalid"}


def test_without_an_index_there_is_nothing_that_would_be_known_beside_the_internet():
    assert configured({"UV_NO_INDEX": "1"}, ABSENT).way.named == frozenset()
