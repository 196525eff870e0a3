"""What is installed is what is there."""

import configparser
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_every_package_is_listed():
    listed = set(setup()["options"]["packages"].split())
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("particles/**/__init__.py")}
    assert listed == found | {"particles.cli"}


def test_version_is_that_of_the_file():
    assert importlib.metadata.version("lipschitz-particles") == setup()["metadata"]["version"]


def test_every_requirement_is_constrained():
    constrained = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n")
    }
    extras = setup()["options.extras_require"]
    for line in [setup()["options"]["install_requires"], *extras.values()]:
        for requirement in line.split():
            name = requirement.split(">")[0].split("<")[0].lower()
            assert name in constrained, f"{name} is not in constraints.txt"


@pytest.mark.parametrize("command", [["-m", "particles.cli"], ["-c", "from particles.cli import main; main()"]])
def test_command_is_installed_as_particles_cli(command, tmp_path):
    found = subprocess.run(
        [sys.executable, *command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert setup()["metadata"]["version"] in found.stdout


def test_the_folder_cli_is_no_package_of_its_own():
    found = subprocess.run([sys.executable, "-c", "import cli"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "installed as the package particles.cli" in found.stderr
