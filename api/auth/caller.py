"""Who asks: a tenant, and what its key allows."""

from __future__ import annotations

from dataclasses import dataclass

from shared.accounts.keys import Scope
from shared.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str
    scopes: tuple[Scope, ...]
    #: whose rates its requests count for: a key's id, or all that come without one
    counted_as: str
    #: whose share its waiting takes: a key's id, or where no key is needed the address that it comes from
    waits_as: str

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def may_read(self) -> bool:
        """Whether it may see what others of its tenant sent, and what became of it."""
        return "read" in self.scopes or self.is_admin

    def check_may_read(self) -> None:
        """Raises Forbidden for a key that may not read: what it asks for tells of more than it sent."""
        if not self.may_read:
            raise Forbidden(f"this key may {' and '.join(self.scopes)}; this needs 'read' as well")
