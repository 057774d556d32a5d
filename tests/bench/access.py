"""New flows a second past the access rules of a service: beside one that asks nothing, in the same rounds."""

from statistics import median

from tests.bench.flows import FLAVOURS, ROUNDS, measure, share
from tests.bench.layouts import make_access_layouts

WANTED = 0.95


def main() -> None:
    layouts = make_access_layouts()
    print(f"New flows a second of processor time: medians of {ROUNDS} rounds, and beside a service without")
    print(f"{'':<42}" + "".join(f"{flavour:>12} {'':<7}" for flavour in FLAVOURS))
    found = {flavour: measure(flavour=flavour, layouts=layouts) for flavour in FLAVOURS}
    alone = layouts[0].title
    for layout in layouts:
        cells = (
            f"{median(rates[layout.title]):>12,.0f} {share(rates, layout.title, alone):<7.3f}"
            for rates in found.values()
        )
        print(f"{layout.title:<42}" + "".join(cells))
    print(f"wanted of a deny list of 10,000 networks: {WANTED}")


if __name__ == "__main__":
    main()
