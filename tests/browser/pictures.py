"""What is looked at in every picture of the console, by a program; people look at the files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

DIRECTORY = os.environ.get("LBADMIN_PICTURES", "")
"""Where pictures are kept; none are where it is empty."""

WIDE, NARROW = ({"width": width, "height": 900} for width in (1440, 390))
_OPEN = "() => document.querySelectorAll('#main details').forEach((one) => { one.open = true; })"
_SHOW = "(theme) => document.documentElement.classList.toggle('dark', theme === 'dark')"
"""As Unfold does it when a page is loaded where dark is preferred."""
_CLIPPED = """() => {
  const shown = (e) => {
    const box = e.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && getComputedStyle(e).visibility !== "hidden";
  };
  const hides = (e) => ["hidden", "clip"].includes(getComputedStyle(e).overflowX);
  const inScroller = (e) => e.closest(".lb-code, .lb-scroll, [data-simplebar]");
  return [...document.querySelectorAll("#main *, #page main *, form *")]
    .filter((e) => shown(e) && e.textContent.trim() && hides(e) && !inScroller(e))
    .filter((e) => !e.classList.contains("lb-hidden") && e.scrollWidth > e.clientWidth + 1)
    .map((e) => `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 60)}`);
}"""
_OUTSIDE = """() => [...document.querySelectorAll("#main *")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".lb-code, [data-simplebar]"))
  .filter((e) => !e.closest(".fixed, .lb-hidden"))
  .slice(0, 5).map((e) => `${e.tagName}.${e.className}`)"""

# Nothing of a page is on another machine, so nothing has to be fetched again for axe (`preload`).
_BARRIERS = """async (only) => {
  const asked = only.length ? {runOnly: only} : {};
  const found = await axe.run({resultTypes: ["violations"], preload: false, ...asked});
  return found.violations.filter((one) => ["serious", "critical"].includes(one.impact)).map((one) =>
    `${one.id}: ${one.help}: ${one.nodes.slice(0, 3).map((node) => node.html.slice(0, 120)).join(" | ")}`);
}"""


def look_as(page: Page, addresses: dict[str, str]) -> list[str]:
    """What is wrong with each of these pages: name -> address."""
    wrong = []
    for name, address in addresses.items():
        page.goto(address)
        wrong += look_around(page, name)
    return wrong


def look_around(page: Page, name: str) -> list[str]:
    """The page as it stands, with all that folds away open: on a desk and on a phone, light and dark."""
    page.evaluate(_OPEN)
    wrong = look_at(page, f"{name}-1440-light") + find_barriers(page, f"{name}-1440-light")
    page.set_viewport_size(NARROW)
    wrong += look_at(page, f"{name}-390-light")
    # A page differs from one theme to the other in its colours only.
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.evaluate(_SHOW, "dark")
    wrong += find_barriers(page, f"{name}-390-dark", only=("color-contrast",))
    if DIRECTORY:
        wrong += look_at(page, f"{name}-390-dark")
    page.set_viewport_size(WIDE)
    if DIRECTORY:
        wrong += look_at(page, f"{name}-1440-dark")
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.evaluate(_SHOW, "light")
    return wrong


def look_at(page: Page, name: str) -> list[str]:
    """What is wrong with the page as it stands; a picture of it is kept where that is asked for."""
    page.evaluate("document.fonts.ready.then(() => true)")  # text is as wide as it will be
    if DIRECTORY:
        Path(DIRECTORY).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{DIRECTORY}/{name}.png", full_page=True)
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    found = [f"{name}: {wider} px wider than the screen"] if wider > 0 else []
    found += [f"{name}: cut text in {what}" for what in page.evaluate(_CLIPPED)]
    found += [f"{name}: off the screen: {what}" for what in page.evaluate(_OUTSIDE)]
    return found


@contextmanager
def held_still(page: Page) -> Iterator[None]:
    """Within, the page does not ask how far a roll-out or rehearsal is, and so does not load itself anew."""
    asks = re.compile(r"/(progress|rehearsal)/")
    page.route(asks, lambda route: route.fulfill(status=204))
    yield
    page.unroute(asks)


def find_barriers(page: Page, name: str, *, only: tuple[str, ...] = ()) -> list[str]:
    """What axe calls serious or critical; `only` names the rules to ask, all of them where it is empty."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    return [f"{name}: {found}" for found in page.evaluate(_BARRIERS, list(only))]
