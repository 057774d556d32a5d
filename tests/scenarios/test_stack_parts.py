"""The parts of the stack that need no process to be tried."""

import configparser
import os
import socket
from pathlib import Path

import pytest

from balancer.management.commands.serve import make_environment, node_name, split_bind
from lbadmin.stack.account import find_account
from lbadmin.stack.checks import require_free_port, require_tools, require_usable_paths
from lbadmin.stack.configuration import Program, render_configuration
from lbadmin.stack.errors import CannotStart
from lbadmin.stack.programs import (
    beat_program,
    broker_program,
    counters_program,
    guard_program,
    gunicorn_extras,
    health_program,
    web_program,
    worker_program,
)
from lbadmin.stack.state import empty_state, lock_state, require_disposable, stack_directory

STATE = Path("/state")
PROGRAMS = (
    broker_program(socket=STATE / "broker.sock", directory=STATE, user="www"),
    web_program(bind="127.0.0.1:8000", user="www"),
    beat_program(user="www"),
    worker_program(node="lb1", environment={}),
    guard_program(node="lb1", environment={}),
    health_program(node="lb1", environment={}),
    counters_program(node="lb1", environment={}),
)


def render(*programs: Program) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.read_string(
        render_configuration(programs=programs, directory=STATE / "stack", working_directory=Path("/tree"))
    )
    return parser


def test_every_program_is_restarted_and_dies_with_supervisord() -> None:
    parsed = render(*PROGRAMS)
    for program in PROGRAMS:
        section = parsed[f"program:{program.name}"]
        assert section["autorestart"] == "true"
        assert section["killasgroup"] == "true"
        assert section["command"].startswith("setpriv --pdeathsig TERM -- ")


def test_only_what_belongs_to_a_node_runs_as_root_where_there_is_another_account() -> None:
    parsed = render(*PROGRAMS)
    users = {
        name.removeprefix("program:"): parsed[name].get("user")
        for name in parsed.sections()
        if name.startswith("program:")
    }
    of_node = dict.fromkeys(("worker-lb1", "guard-lb1", "health-lb1", "counters-lb1"))
    assert users == {"broker": "www", "web": "www", "beat": "www", **of_node}


def test_the_broker_has_no_tcp_port() -> None:
    words = list(broker_program(socket=STATE / "broker.sock", directory=STATE, user=None).command)
    assert words[words.index("--port") + 1] == "0"
    assert words[words.index("--unixsocket") + 1] == "/state/broker.sock"


def test_the_broker_is_stopped_after_all_that_use_it() -> None:
    parsed = render(
        broker_program(socket=STATE / "broker.sock", directory=STATE, user=None),
        worker_program(node="lb1", environment={}),
        beat_program(user=None),
    )
    assert parsed["group:lbadmin"]["programs"] == "worker-lb1,beat"
    assert int(parsed["program:broker"]["priority"]) < int(parsed["group:lbadmin"]["priority"])


def test_the_guard_is_there_before_the_worker_and_after_it() -> None:
    parsed = render(worker_program(node="lb1", environment={}), guard_program(node="lb1", environment={}))
    assert parsed["group:lbadmin"]["programs"] == "worker-lb1"
    assert int(parsed["program:guard-lb1"]["priority"]) < int(parsed["group:lbadmin"]["priority"])


def test_a_percent_sign_reaches_the_program_as_it_is() -> None:
    parsed = render(Program(name="x", command=["run", "50%"], environment={"SHARE": "50%"}))
    assert parsed["program:x"]["command"].endswith(" run 50%%")
    assert parsed["program:x"]["environment"] == 'SHARE="50%%"'


def test_the_worker_is_told_its_node_and_runs_where_the_node_is() -> None:
    program = worker_program(
        node="lb1", environment={"LBADMIN_FLAVOUR": "nft"}, inside=["ip", "netns", "exec", "x-lb1"]
    )
    assert program.environment == {"LBADMIN_NODE": "lb1", "LBADMIN_FLAVOUR": "nft"}
    assert list(program.command)[:4] == ["ip", "netns", "exec", "x-lb1"]


def test_the_locked_gunicorn_opens_no_control_socket() -> None:
    assert gunicorn_extras() == ["--no-control-socket"]


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(CannotStart, match=f"Port {port} on 127.0.0.1 cannot be used"):
            require_free_port(host="127.0.0.1", port=port)
    require_free_port(host="127.0.0.1", port=port)


def test_an_address_that_is_not_of_this_machine_is_named() -> None:
    with pytest.raises(CannotStart, match=r"Port 8000 on 192\.0\.2\.1 cannot be used"):
        require_free_port(host="192.0.2.1", port=8000)
    with pytest.raises(CannotStart, match="is no address"):
        require_free_port(host="not a host", port=8000)


def test_a_missing_tool_is_named_with_its_package() -> None:
    with pytest.raises(CannotStart, match=r"lb-no-such-tool.*Install lb-no-such-tool"):
        require_tools(names=["sh", "lb-no-such-tool"])
    require_tools(names=["sh"])


@pytest.mark.parametrize("path", ["/a'b", '/a"b', "/a%b", "/a;b", "/a\nb"])
def test_a_path_that_the_configuration_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(CannotStart, match="cannot be used here"):
        require_usable_paths(paths=[Path(path)], sockets=[])


def test_a_socket_with_too_long_a_path_is_refused() -> None:
    require_usable_paths(paths=[], sockets=[Path("/" + "x" * 106)])
    with pytest.raises(CannotStart, match="too long for a socket"):
        require_usable_paths(paths=[], sockets=[Path("/" + "x" * 107)])


def test_an_account_that_is_not_there_is_named() -> None:
    with pytest.raises(CannotStart, match="no account “lb-nobody-at-all”"):
        find_account(asked="lb-nobody-at-all")
    assert find_account(asked="root") is None


def test_two_stacks_cannot_have_one_state_directory(tmp_path: Path) -> None:
    held = lock_state(state_dir=tmp_path)
    with pytest.raises(CannotStart, match=f"in use by process {os.getpid()}"):
        lock_state(state_dir=tmp_path)
    os.close(held)
    os.close(lock_state(state_dir=tmp_path))


def test_a_demo_empties_what_a_demo_made_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "demo"
    require_disposable(state_dir=state)
    lock = lock_state(state_dir=state)
    empty_state(state_dir=state)
    (state / "lbadmin.sqlite3").touch()
    (stack_directory(state_dir=state) / "web.log").touch()
    require_disposable(state_dir=state)
    empty_state(state_dir=state)
    left = {path.relative_to(state).as_posix() for path in state.rglob("*")}
    assert left == {"stack", "stack/lock", "stack/demo"}
    os.close(lock)

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(CannotStart, match="has other things in it"):
        require_disposable(state_dir=tmp_path / "other")
    (tmp_path / "link").symlink_to(state)
    with pytest.raises(CannotStart, match="is no directory"):
        require_disposable(state_dir=tmp_path / "link")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:80", ("::1", 80)),
        (":8080", ("0.0.0.0", 8080)),
    ],
)
def test_an_address_to_bind_is_read(text: str, expected: tuple[str, int]) -> None:
    assert split_bind(text) == expected


@pytest.mark.parametrize("text", ["8000", "host:", "host:http", "host:0", "host:65536"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CannotStart, match="is no address and port"):
        split_bind(text)


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("LB1.example.net", "lb1"), ("my_host", "my-host"), ("-", "this-host"), ("x" * 80, "x" * 63)],
)
def test_a_host_name_becomes_the_name_of_a_node(hostname: str, name: str) -> None:
    assert node_name(hostname) == name


def test_only_the_worker_is_told_that_this_host_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBADMIN_THIS_HOST", "1")
    monkeypatch.delenv("LBADMIN_HOSTS", raising=False)
    environment = make_environment(host="192.0.2.7")
    assert "LBADMIN_THIS_HOST" not in environment
    assert environment["LBADMIN_HOSTS"] == "192.0.2.7,127.0.0.1,localhost"
