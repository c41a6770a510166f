"""Who may ask: API keys, known by their hashes only, re-read when their folder changes, and a brake on guessing.

The folder is a mounted Kubernetes Secret. Each file is one client: its name is the client's, each of its lines one key that is valid for it,
`sha256:<64 hexadecimal digits>`, so that an old and a new key can overlap; a line `tokens-per-minute: <number>` gives the client a budget
and `highest-priority: <number>` a ceiling. Keys are random 256-bit strings (`deepseek-serving new-key` makes them), which is why one fast hash
is enough: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_serving.admission import AdmissionError
from deepseek_serving.engine import Clock

log = logging.getLogger(__name__)

_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_OPTION = re.compile(r"(tokens-per-minute|highest-priority):\s*(-?\d{1,9})")
_LONGEST_KEY = 512
"""Characters of a key beyond which nobody hashes it."""

MOST_FAILURES = 10
"""Wrong keys that one address may send within `FAILURE_SECONDS`."""

FAILURE_SECONDS = 60.0

_ADDRESSES_KEPT = 4096
_GOOD_KEYS_KEPT = 64


@dataclass(frozen=True)
class Client:
    """One who may ask. `tokens_per_minute`: None for no budget, counted by each replica for itself."""

    name: str
    tokens_per_minute: int | None = None
    highest_priority: int = 100


ANYONE = Client("")
"""Everybody, where no keys are asked for."""


class UnknownKeyError(Exception):
    """401: no key, or one that is not valid here. The words never repeat the key."""


class GuessingError(AdmissionError):
    """429: this address sent too many wrong keys; what it sends is not even looked at for a while."""


class OverBudgetError(AdmissionError):
    """429: the client has used up its tokens for now."""


def new_key() -> tuple[str, str]:
    """A fresh key, and the line that makes it valid."""
    key = "sk-" + secrets.token_urlsafe(32)
    return key, f"sha256:{digest(key)}"


def digest(key: str) -> str:
    """How a key is kept: SHA-256, hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """The valid keys of a folder. `refresh` is cheap while nothing changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._clients: list[tuple[str, Client]] = []

    def refresh(self) -> bool:
        """Read the folder again if it changed; whether it had. An unreadable folder leaves no key valid: better closed than open."""
        try:
            files = sorted(path for path in self._folder.iterdir() if not path.name.startswith(".") and path.is_file())
            seen = tuple((path.name, (stat := path.stat()).st_mtime_ns, stat.st_size) for path in files)
            if seen == self._seen:
                return False
            clients = [entry for path in files for entry in _read(path)]
        except OSError as error:
            if self._seen != ():
                log.error("the API keys cannot be read (%s); no key is valid", error.strerror)
            self._seen, self._clients = (), []
            return True
        self._seen, self._clients = seen, clients
        log.info("%d API keys of %d clients are valid", len(clients), len({client.name for _, client in clients}))
        return True

    def find(self, key_digest: str) -> Client | None:
        """Whose key that is. Looks at every key, whichever matches: the time tells nothing."""
        found = None
        for known, client in self._clients:
            if hmac.compare_digest(known, key_digest):
                found = client
        return found


def _read(path: Path) -> Iterator[tuple[str, Client]]:
    options: dict[str, int] = {}
    hashes: list[str] = []
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if match := _HASH.fullmatch(text):
            hashes.append(match[1].lower())
        elif match := _OPTION.fullmatch(text):
            options[match[1]] = int(match[2])
        elif text:
            # Not the line itself: somebody may have put the key there instead of its hash.
            log.error("API keys: line %d of %s is neither sha256:<64 hex digits> nor an option and is left out", number, path.name)
    client = Client(path.name, options.get("tokens-per-minute"), options.get("highest-priority", 100))
    for each in hashes:
        yield each, client


class Gate:
    """Turns an `Authorization` header into a client."""

    def __init__(self, folder: Path | None, *, clock: Clock = time.monotonic) -> None:
        self._ring = KeyRing(folder) if folder is not None else None
        self._clock = clock
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._budgets: dict[str, Budget] = {}
        self.refresh()

    def refresh(self) -> None:
        """Follow the folder. Called every few seconds, in a thread of its own."""
        if self._ring is not None and self._ring.refresh():
            self._addresses = OrderedDict()  # a key that was good may be no more

    def admit(self, authorization: str | None, address: str) -> Client:
        """Who asks. Raises UnknownKeyError or GuessingError."""
        if self._ring is None:
            return ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise UnknownKeyError("An API key is needed: send it as the header `Authorization: Bearer <key>`.")
        if len(key) > _LONGEST_KEY:
            raise UnknownKeyError("The API key is not valid here.")
        hashed = digest(key)
        failed = self._addresses.get(address)
        # A shared address (a gateway's, say) goes on serving the keys that were good from there; all others are not even compared.
        if failed is not None and hashed not in failed.good and (seconds := failed.blocked_seconds(self._clock())) > 0:
            raise GuessingError("Too many wrong API keys came from this address; wait before trying another one.", max(1, round(seconds)))
        client = self._ring.find(hashed)
        remembered = self._remember(address)
        if client is None:
            remembered.failures.append(self._clock())
            raise UnknownKeyError("The API key is not valid here.")
        if hashed not in remembered.good:
            remembered.good[hashed] = None
            while len(remembered.good) > _GOOD_KEYS_KEPT:
                del remembered.good[next(iter(remembered.good))]
        return client

    def budget_of(self, client: Client) -> Budget | None:
        """The client's account, if it has one."""
        if client.tokens_per_minute is None:
            return None
        budget = self._budgets.get(client.name)
        if budget is None or budget.tokens_per_minute != client.tokens_per_minute:
            budget = self._budgets[client.name] = Budget(client.tokens_per_minute, clock=self._clock)
        return budget

    def _remember(self, address: str) -> _Address:
        known = self._addresses.setdefault(address, _Address())
        self._addresses.move_to_end(address)
        while len(self._addresses) > _ADDRESSES_KEPT:
            self._addresses.popitem(last=False)
        return known


@dataclass
class _Address:
    failures: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_FAILURES))
    good: dict[str, None] = field(default_factory=dict)

    def blocked_seconds(self, now: float) -> float:
        """Time until the oldest of the last `MOST_FAILURES` failures is `FAILURE_SECONDS` old; 0 when there were fewer."""
        return max(0.0, self.failures[0] + FAILURE_SECONDS - now) if len(self.failures) == MOST_FAILURES else 0.0


class Budget:
    """So many tokens a minute, a minute's worth saved up at most. What an answer took is known at its end only: the account may go below 0."""

    def __init__(self, tokens_per_minute: int, *, clock: Clock = time.monotonic) -> None:
        self.tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._left = float(tokens_per_minute)
        self._at = clock()

    def check(self) -> None:
        """Raise OverBudgetError while nothing is left."""
        self._refill()
        if self._left <= 0:
            # 90 tokens below 0 at 60 tokens/min → 90 s
            seconds = min(120, max(1, round((1 - self._left) * 60 / max(1, self.tokens_per_minute))))
            raise OverBudgetError(f"This key's {self.tokens_per_minute} tokens per minute are used up.", seconds)

    def spend(self, tokens: float) -> None:
        """Take what an answer cost."""
        self._refill()
        self._left -= tokens

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self.tokens_per_minute, self._left + (now - self._at) * self.tokens_per_minute / 60)
        self._at = now
