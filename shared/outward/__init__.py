"""Every request that leaves the house because a user named a URL goes through here.

The address that was checked is the address that is connected to."""

from shared.outward.addresses import check_url, is_url
from shared.outward.client import Limits, Outward, Reply

__all__ = ["Limits", "Outward", "Reply", "check_url", "is_url"]
