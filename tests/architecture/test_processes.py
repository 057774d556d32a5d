"""What the import contracts say of the text, seen once more in a running interpreter."""

from pathlib import Path

from tests.architecture.tree import run_python

LOAD_THE_WEB_PROCESS = """
import sys
import lbadmin.wsgi
from django.urls import get_resolver
get_resolver().url_patterns
print(*sys.modules, sep="\\n")
"""

LOAD_A_WORKER = """
import sys
import django
django.setup()
import balancer.factories
import balancer.wiring
from lbadmin.celery import app
app.loader.import_default_modules()
balancer.factories.make_node_kernel(flavour="auto", driver="auto")
print(*sys.modules, sep="\\n")
"""


def test_the_web_process_loads_the_console_but_never_iptc(tmp_path: Path) -> None:
    loaded = set(run_python(LOAD_THE_WEB_PROCESS, state_dir=tmp_path).split())

    assert {"lbadmin.urls", "balancer.admin", "balancer.models"} <= loaded
    assert not {name for name in loaded if name.split(".")[0] == "iptc"}


def test_a_worker_loads_its_tasks_and_its_kernel_but_never_iptc(tmp_path: Path) -> None:
    loaded = set(run_python(LOAD_A_WORKER, state_dir=tmp_path).split())

    assert {"balancer.tasks", "balancer.wiring", "balancer.kernel.node"} <= loaded
    assert not {name for name in loaded if name.split(".")[0] == "iptc"}


def test_the_guard_loads_neither_django_nor_celery_nor_a_database(tmp_path: Path) -> None:
    code = "import sys, lbadmin.guard; lbadmin.guard.make_kernels(); print(*sys.modules)"

    loaded = {name.split(".")[0] for name in run_python(code, state_dir=tmp_path).split()}

    assert "lbadmin" in loaded
    assert not {"django", "celery", "kombu", "redis", "sqlite3", "psycopg", "iptc"} & loaded


def test_the_pure_core_loads_without_django_and_the_kernel(tmp_path: Path) -> None:
    code = "import sys, balancer.domain.codec, balancer.ruleset.trace; print(*sys.modules)"

    loaded = {name.split(".")[0] for name in run_python(code, state_dir=tmp_path).split()}

    assert not {"django", "celery", "redis", "iptc", "subprocess", "socket"} & loaded
