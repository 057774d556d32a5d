"""What the guard's process does: it looks at its files again and again, and puts back what was confirmed.

No database, no broker, no wall clock: clock, boot id and kernels are given. `stamp` gives the time of day
that is written beside an outcome for people; nothing is decided by it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from balancer.domain.codec import load_document
from balancer.domain.types import Document, Family
from balancer.kernel.base import Kernel
from balancer.kernel.guard_files import Damaged, GuardError
from balancer.kernel.guard_state import Confirmed, GuardDirectory, Heard, Outcome, Pending, Why
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset, Table, TableName
from balancer.ruleset.parse import parse_ruleset

logger = logging.getLogger(__name__)


class Guardian:
    """One node's guard. What a kernel refuses is tried again at the next tick."""

    def __init__(
        self,
        *,
        files: GuardDirectory,
        kernels: Sequence[Kernel],
        clock: Callable[[], float],
        boot_id: str,
        network: int,
        stamp: Callable[[], str],
    ) -> None:
        """`kernels` write the same tables by different drivers; after a failure the next one has its turn."""
        self._files = files
        self._kernels = kernels
        self._clock = clock
        self._boot_id = boot_id
        self._network = network
        self._stamp = stamp
        self._tries = 0
        self._starting = True
        self._said = ""

    def warm_up(self) -> None:
        """Choose the driver now, which takes a self-test, and not at a deadline."""
        try:
            self._kernel().compare(ruleset=nothing_of_ours(Family.IPV4))
        except Exception as error:  # noqa: BLE001 - it is tried again when it matters
            self._say(f"The kernel could not be read: {error}")

    def tick(self) -> None:
        """Do what is due. Raises GuardError where the files cannot be used; try again."""
        if not self._files.is_restoring():
            if self._files.has_pending():
                self._look_at_pending()
            elif self._starting:
                self._start_up()
        if self._files.is_restoring():
            self._go_back()

    def _look_at_pending(self) -> None:
        with self._files.locked():
            try:
                pending = self._files.read_pending()
            except Damaged as damaged:
                self._say(f"{damaged} Its deadline is unknown: the last confirmed rules are put back now.")
                self._files.claim_pending()
                return
            if pending is None:
                return
            if self._is_confirmed(pending):
                # The worker was stopped between writing the confirm and taking this file away.
                self._files.drop_pending()
            elif pending.boot_id != self._boot_id or self._clock() >= pending.deadline:
                self._files.claim_pending()
            else:
                self._starting = False
                self._answer(pending)

    def _is_confirmed(self, pending: Pending) -> bool:
        try:
            confirmed, _ = self._files.read_confirmed()
        except Damaged:
            return False
        return confirmed is not None and confirmed.token == pending.token

    def _answer(self, pending: Pending) -> None:
        try:
            heard = self._files.read_heard()
        except Damaged:
            heard = None
        if heard is None or heard.token != pending.token:
            self._files.write_heard(Heard(token=pending.token, network=self._network))
            left = pending.deadline - self._clock()
            self._say(f"Armed: revision {pending.revision} has {left:.1f} seconds to be confirmed.")

    def _start_up(self) -> None:
        """After a reboot the kernel is empty: load what was confirmed, before anybody else has a say."""
        with self._files.locked():
            confirmed, note = self._files.read_confirmed()
        if confirmed is None:
            self._say("Nothing was confirmed on this node yet; waiting for its worker.")
        elif confirmed.boot_id != self._boot_id or self._is_kernel_empty():
            if not self._write(confirmed, still=lambda: not self._files.has_pending()):
                return
            self._note_boot(confirmed)
            self._say(
                f"{note} Started: the kernel carries revision {confirmed.revision}, the last confirmed one."
            )
        else:
            # Restarted while the machine runs: what differs now is drift, which people are shown.
            self._say(f"{note} Started; revision {confirmed.revision} was confirmed last.")
        self._starting = False

    def _is_kernel_empty(self) -> bool:
        try:
            kernel = self._kernel()
            return all(kernel.compare(ruleset=nothing_of_ours(family)).in_sync for family in Family)
        except Exception as error:  # noqa: BLE001 - a kernel that cannot be read now is not empty for sure
            self._say(f"The kernel could not be read: {error}")
            return False

    def _go_back(self) -> None:
        with self._files.locked():
            try:
                pending, broken = self._files.read_restoring(), False
            except Damaged:
                pending, broken = None, True
            confirmed, note = self._files.read_confirmed()
        if pending is None and not broken:
            return  # somebody else has ended it meanwhile
        if confirmed is None:
            raise GuardError(
                "There is nothing confirmed that could be put back; its worker has to hand it over."
            )
        if not self._write(confirmed, still=self._files.is_restoring):
            return
        with self._files.locked():
            self._files.write_outcome(self._outcome(pending, confirmed, note))
            self._files.drop_restoring()
        self._note_boot(confirmed)
        self._starting = False

    def _write(self, confirmed: Confirmed, *, still: Callable[[], bool]) -> bool:
        """Whether the kernel carries it now.

        `still` is asked with the writer lock held: a worker that brought the kernel somewhere else meanwhile,
        and said so, is not overruled.
        """

        def permit() -> None:
            if not still() or self._files.read_confirmed()[0] != confirmed:
                raise GuardError("The worker has decided otherwise meanwhile.")

        kernel = self._kernel()
        try:
            document = load_document(confirmed.document)[0] or Document()
            for ruleset in rulesets_of(confirmed):
                kernel.sync(ruleset=ruleset, document=document, permit=permit)
        except Exception as error:  # noqa: BLE001 - whatever a driver does wrong, the guard goes on trying
            self._tries += 1
            self._say(f"Revision {confirmed.revision} could not be put back yet: {error}")
            return False
        return True

    def _kernel(self) -> Kernel:
        return self._kernels[self._tries % len(self._kernels)]

    def _outcome(self, pending: Pending | None, confirmed: Confirmed, note: str) -> Outcome:
        why = self._why(pending)
        text = f"{_sentence(why, pending, confirmed)} {note}".strip()
        late = None
        if pending is not None and why is Why.DEADLINE:
            late = round(self._clock() - pending.deadline, 3)
        self._say(text)
        return Outcome(
            token=pending.token if pending else f"damaged-{self._boot_id}-{self._clock():.3f}",
            job=pending.job if pending else "",
            cluster=confirmed.cluster,
            given_up=pending.revision if pending else None,
            restored=confirmed.revision,
            digest=confirmed.digest,
            overrides=confirmed.overrides,
            why=why,
            text=text,
            late=late,
            at=self._stamp(),
        )

    def _why(self, pending: Pending | None) -> Why:
        if pending is None:
            return Why.DAMAGED
        return Why.DEADLINE if pending.boot_id == self._boot_id else Why.REBOOT

    def _note_boot(self, confirmed: Confirmed) -> None:
        """So that a guard that is started once more in this boot does not load it again."""
        if confirmed.boot_id == self._boot_id:
            return
        with self._files.locked():
            if self._files.read_confirmed()[0] == confirmed:
                self._files.write_confirmed(replace(confirmed, boot_id=self._boot_id))

    def _say(self, text: str) -> None:
        """Once, however many ticks it stays true."""
        if text.strip() != self._said:
            self._said = text.strip()
            logger.warning("%s", self._said)


def rulesets_of(confirmed: Confirmed) -> tuple[Ruleset, ...]:
    """One for each family; IPv6 without services where it is not told. Raises Unparsable."""
    texts = {Family(family): text for family, text in confirmed.rulesets.items()}
    return tuple(
        parse_ruleset(texts[family], family=family)
        if family in texts
        else compile_document(Document(), family=family)
        for family in Family
    )


def nothing_of_ours(family: Family) -> Ruleset:
    """What a kernel carries that was started anew."""
    return Ruleset(family=family, tables=tuple(Table(name, {}, ()) for name in TableName))


def _sentence(why: Why, pending: Pending | None, confirmed: Confirmed) -> str:
    back = f"revision {confirmed.revision}"
    if pending is None or why is Why.DAMAGED:
        return f"What the node's guard knew of the apply was damaged, so it put {back} back at once."
    if why is Why.REBOOT:
        return (
            f"The node was started again before revision {pending.revision} was confirmed, so its guard"
            f" loaded {back}."
        )
    return (
        f"Revision {pending.revision} was not confirmed within {pending.seconds:g} seconds, so the node's"
        f" guard put {back} back."
    )
