"""devices.toml: which devices are found, what is refused, and how a device is added."""

from __future__ import annotations

import pytest

from hwnas.errors import InputError
from hwnas.latency_tables.remote.inventory import add_device, find_device, read_inventory


@pytest.fixture
def project(monkeypatch, tmp_path):
    """An empty project folder; the user's own file lies in `home`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "hwnas").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_the_projects_file_takes_precedence_over_the_users(project, tmp_path) -> None:
    own = tmp_path / "home" / "hwnas" / "devices.toml"
    own.write_text('[pi]\nhost = "first"\n[jetson]\nhost = "nano"\nruntime = "onnxruntime-cuda"\n')
    (project / "devices.toml").write_text('[pi]\nhost = "second"\nport = 2222\n')
    devices = read_inventory()
    assert (devices["pi"].host, devices["pi"].port) == ("second", 2222)
    assert devices["jetson"].runtime == "onnxruntime-cuda"


@pytest.mark.parametrize(
    "text, message",
    [
        ("[pi]\nhost = 3\n", "pi"),
        ('[pi]\nhost = "-oProxyCommand=x"\n', "pi: begins with a hyphen"),
        ('[pi]\nuser = "pi"\n', "pi: state either host, or the members of a pool"),
        ('[pi]\nhost = "h"\nmembers = ["x"]\n', "pi: state either host, or the members"),
        ('[pi]\ntransport = "adb"\nhost = "h"\n', "pi: state either serial"),
        ('[pi]\nhost = "h"\nprot = 22\n', "prot: pi: unknown key"),
        ('[pi]\nhost = "h"\nport = 0\n', "port: pi: invalid value"),
        ('[pi]\nhost = "h"\nname = "x"\n', "pi.name: unknown key"),
        ('["a b"]\nhost = "h"\n', "not a name of a device"),
        ("pi = 3\n", "pi: not a table"),
        ("[pi\n", "cannot be read as TOML"),
        ('[pis]\nmembers = ["pi"]\n', "pis.members: a pool has a member that is no device"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(project, text, message) -> None:
    (project / "devices.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_inventory()
    assert "devices.toml" in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_mistyped_name_is_answered_with_the_nearest(project) -> None:
    (project / "devices.toml").write_text('[kitchen-pi]\nhost = "h"\n')
    with pytest.raises(InputError, match="did you mean kitchen-pi"):
        find_device("kitchn-pi")


def test_adding_a_device_leaves_the_rest_of_the_file_as_it_is(project) -> None:
    path = project / "devices.toml"
    path.write_text('# the one in the kitchen\n[pi]\nhost = "h"  # by cable\n')
    add_device(path, "jetson", {"host": "nano", "threads": 4})
    assert path.read_text().startswith('# the one in the kitchen\n[pi]\nhost = "h"  # by cable\n')
    assert {name: device.threads for name, device in read_inventory().items()} == {
        "pi": 1,
        "jetson": 4,
    }
    with pytest.raises(InputError, match="there already"):
        add_device(path, "pi", {"host": "other"})
