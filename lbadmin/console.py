"""How the console looks: the settings of Unfold. Nothing is fetched from elsewhere."""

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static


def _icon(request: HttpRequest) -> str:
    return static("lbadmin/icon.svg")


def _stylesheet(request: HttpRequest) -> str:
    return static("lbadmin/console.css")


def _script(request: HttpRequest) -> str:
    return static("lbadmin/console.js")


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "lbadmin",
    "SITE_HEADER": "lbadmin",
    "SITE_SUBHEADER": "Kernel load balancing",
    "SITE_URL": None,
    "SITE_ICON": _icon,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _icon}],
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [_stylesheet],
    "SCRIPTS": [_script],
    "DASHBOARD_CALLBACK": "balancer.admin.dashboard.add_dashboard",
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": "balancer.admin.navigation.build",
    },
    "COMMAND": {"search_models": False, "show_history": False},
    "COLORS": {
        # Tailwind's slate and blue: white on 600 and 600 on white both have a contrast above 4.5.
        "base": {
            "50": "oklch(98.4% .003 247.858)",
            "100": "oklch(96.8% .007 247.896)",
            "200": "oklch(92.9% .013 255.508)",
            "300": "oklch(86.9% .022 252.894)",
            "400": "oklch(70.4% .04 256.788)",
            "500": "oklch(53% .046 257.417)",
            "600": "oklch(44.6% .043 257.281)",
            "700": "oklch(37.2% .044 257.287)",
            "800": "oklch(27.9% .041 260.031)",
            "900": "oklch(20.8% .042 265.755)",
            "950": "oklch(12.9% .042 264.695)",
        },
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(66% .19 257)",
            "600": "oklch(54.6% .225 262.881)",
            "700": "oklch(48.8% .22 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
        "font": {
            "subtle-light": "var(--color-base-500)",
            "subtle-dark": "var(--color-base-400)",
            "default-light": "var(--color-base-600)",
            "default-dark": "var(--color-base-300)",
            "important-light": "var(--color-base-900)",
            "important-dark": "var(--color-base-100)",
        },
    },
}
