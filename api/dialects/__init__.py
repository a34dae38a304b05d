"""The dialects that the API speaks: a row for each; the native one is the first."""

from __future__ import annotations

from collections.abc import Sequence

from api.native.dialect import DIALECT as NATIVE
from api.routing.dialect import Dialect

DIALECTS: Sequence[Dialect] = (NATIVE,)
