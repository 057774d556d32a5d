"""How the console looks: the settings of Unfold."""

from typing import Any

UNFOLD: dict[str, Any] = {"SITE_TITLE": "lbadmin", "SITE_HEADER": "lbadmin"}
