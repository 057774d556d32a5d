"""Settings. Everything a host may want to say comes from the environment; the defaults run on one machine."""

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from lbadmin.celery import app as app
from lbadmin.console import UNFOLD as UNFOLD
from lbadmin.secret_key import load_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def env_flag(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}


def env_list(name: str, default: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def env_ports(name: str, default: str) -> list[int]:
    wrong = [item for item in env_list(name, default) if not item.isdigit() or not 1 <= int(item) <= 65535]
    if wrong:
        raise ImproperlyConfigured(f"{name} holds {wrong[0]!r}; write ports from 1 to 65535, as in 22,2222.")
    return [int(item) for item in env_list(name, default)]


def env_network(name: str, default: str) -> IPv4Network:
    try:
        found = IPv4Network(os.environ.get(name) or default)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is no IPv4 network: {error}. Write 198.18.0.0/15.") from error
    if found.prefixlen > 28:
        raise ImproperlyConfigured(f"{name} needs 16 addresses or more, such as 192.0.2.240/28, not {found}.")
    return found


def env_network_ipv6(name: str, default: str) -> IPv6Network:
    try:
        found = IPv6Network(os.environ.get(name) or default)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is no IPv6 network: {error}. Write 2001:2::/48.") from error
    if found.prefixlen > 124:
        raise ImproperlyConfigured(f"{name} needs 16 addresses or more, such as fd00::f0/124, not {found}.")
    return found


STATE_DIR = Path(os.environ.get("LBADMIN_STATE_DIR") or BASE_DIR / "var").absolute()
STATE_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("LBADMIN_SECRET_KEY") or load_secret_key(path=STATE_DIR / "secret-key")
DEBUG = env_flag("LBADMIN_DEBUG")
ALLOWED_HOSTS = env_list("LBADMIN_HOSTS", "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env_list("LBADMIN_ORIGINS", "")

LBADMIN_REDIS_URL = os.environ.get("LBADMIN_REDIS_URL") or f"redis+socket://{STATE_DIR}/broker.sock"
LBADMIN_NODE = os.environ.get("LBADMIN_NODE", "")
"""The node whose worker this process is; empty in every other process."""
LBADMIN_THIS_HOST = env_flag("LBADMIN_THIS_HOST")
LBADMIN_FLAVOUR = os.environ.get("LBADMIN_FLAVOUR", "auto")
LBADMIN_DRIVER = os.environ.get("LBADMIN_DRIVER", "auto")
LBADMIN_GUARD = os.environ.get("LBADMIN_GUARD", "on").strip().lower()
"""`off` lets a worker apply without a guard, which only tests should do."""
LBADMIN_GUARD_DIR = os.environ.get("LBADMIN_GUARD_DIR") or "/var/lib/lbadmin/guard"
"""Where worker and guard of a node meet; on a disk of the node's own that outlasts a restart."""
LBADMIN_GUARD_FACTORY = "balancer.factories.make_guard"
"""Dotted name of the function that makes the worker's side of the guard; another one only in a test."""
LBADMIN_MANAGEMENT_PORTS = frozenset(env_ports("LBADMIN_MANAGEMENT_PORTS", "22"))
"""TCP ports by which people reach the balancers themselves: reviewers are warned of a service on one."""
LBADMIN_PROBE_NETWORK = env_network("LBADMIN_PROBE_NETWORK", "198.18.0.0/15")
"""A worker's probes of its services come from free addresses in it. The default is for tests (RFC 2544)."""
LBADMIN_PROBE_NETWORK_IPV6 = env_network_ipv6("LBADMIN_PROBE_NETWORK_IPV6", "2001:2::/48")
"""The same for IPv6 (RFC 5180)."""
LBADMIN_KERNEL_FACTORY = "balancer.factories.make_node_kernel"
"""Dotted name of the function that makes the worker's kernel; another one only in the settings of a test."""
LBADMIN_REHEARSAL_FACTORY = "balancer.factories.make_rehearse"
"""The same for the worker's way to rehearse."""

LBADMIN_TRUSTED_PROXIES = env_list("LBADMIN_TRUSTED_PROXIES", "")
"""Addresses and networks of proxies whose X-Forwarded-For is believed; `unix` for one on a unix socket."""
LBADMIN_SYSLOG = os.environ.get("LBADMIN_SYSLOG") or "/dev/log"
"""The unix datagram socket that heads of the audit chain are sent to."""

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin.apps.SimpleAdminConfig",  # lbadmin.urls has it find the console
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "balancer",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "lbadmin.source.SourceMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "lbadmin.urls"
WSGI_APPLICATION = "lbadmin.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "balancer.admin.banner.add_banner",
            ],
        },
    },
]

SQLITE_OPTIONS: dict[str, Any] = {
    # A transaction that reads and then writes would otherwise fail at once with "database is locked" when
    # another one wrote in between; so every transaction takes the write lock first and waits for it.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # FULL: a commit that was answered survives a power cut. NORMAL in WAL mode may lose the last ones, and
    # those may be approvals and audit events.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
}


def database() -> dict[str, Any]:
    found = dict(
        dj_database_url.parse(os.environ.get("DATABASE_URL") or f"sqlite:///{STATE_DIR}/lbadmin.sqlite3")
    )
    if found["ENGINE"] == "django.db.backends.sqlite3":
        found["OPTIONS"] = SQLITE_OPTIONS | found.get("OPTIONS", {})
    return found


DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

HTTPS = env_flag("LBADMIN_HTTPS")
SESSION_COOKIE_NAME = "lbadmin_session"
CSRF_COOKIE_NAME = "lbadmin_csrf"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 60 * 60
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# A service may have 1,024 backends, each with a handful of form fields.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000
# A document of 2 MB in a text field comes back with two characters for every end of a line; what is a little
# too long shall meet the form, which says so in a sentence.
DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024 * 1024

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
STATICFILES_DIRS = [path for path in (BASE_DIR / "static",) if path.is_dir()]
# Files are served straight from the packages: no collectstatic step that could be forgotten.
WHITENOISE_USE_FINDERS = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
        "heads": {"class": "lbadmin.syslog.HeadHandler", "address": LBADMIN_SYSLOG},
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "lbadmin.audit": {"handlers": ["heads"], "level": "INFO", "propagate": False},
        # INFO would print one line for every tick of every node.
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
    },
}
