"""What docs/serving.md says of the service, against the service."""

import re
from pathlib import Path

import pytest
from service import local

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text("utf-8")


@pytest.fixture(scope="module")
def segment():
    with local() as served:
        return served.ask("GET", "/openapi.json").json()["paths"]["/v1/segment"]["post"]


def test_all_statuses_and_forms_are_on_the_page(segment):
    refused = set(re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE))
    assert refused == set(segment["responses"]) - {"200"}
    forms = set(re.findall(r"^\| `(\w+/[\w+]+)`", PAGE, re.MULTILINE))
    assert forms == set(segment["responses"]["200"]["content"])


def test_all_its_options_are_those_of_the_command(command_line, capsys):
    assert command_line("serve", "--help") == 0
    known = set(re.findall(r"--[a-z][\w-]+", capsys.readouterr().out))
    named = set(re.findall(r"`(--[a-z][\w-]+)", PAGE))
    (started,) = re.findall(r"^ExecStart=.*", PAGE, re.MULTILINE)
    assert named | set(re.findall(r"--[a-z][\w-]+", started)) <= known | {"--format"}


def test_the_container_ends_as_a_process_does_and_is_no_root():
    (container,) = re.findall(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)
    assert re.search(r"^ENTRYPOINT \[", container, re.MULTILINE)  # no shell, which keeps SIGTERM
    assert re.search(r"^USER [1-9]\d*$", container, re.MULTILINE)
