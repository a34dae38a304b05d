"""Which URLs a user may send the server to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Refused
from shared.outward.addresses import MOST, check_url, destination, is_public
from shared.outward.hosts import authority

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",  # carrier-grade NAT
    "::1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::10.0.0.1",  # NAT64
    "2002:a00:1::1",  # 6to4 of 10.0.0.1
]
NOWHERE = [
    "0.0.0.0",
    "169.254.169.254",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "192.88.99.1",
    "::",
    "::127.0.0.1",  # IPv4-compatible
    "::ffff:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "2001::1",  # Teredo
    "2001:db8::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "3fff::1",
    "2002:a9fe:a9fe::1",  # 6to4 of 169.254.169.254
]
PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "2002:101:101::1",
]


def _url(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


@pytest.mark.parametrize("address", PRIVATE + NOWHERE)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(Refused, match="not a public address"):
        check_url(_url(address), allow_private=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_taken(address: str) -> None:
    check_url(_url(address), allow_private=False)


@pytest.mark.parametrize("address", PRIVATE)
def test_an_operator_may_allow_private_addresses(address: str) -> None:
    check_url(_url(address), allow_private=True)


@pytest.mark.parametrize("address", NOWHERE)
def test_no_setting_opens_link_local_multicast_or_reserved_addresses(address: str) -> None:
    with pytest.raises(Refused):
        check_url(_url(address), allow_private=True)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "1.2.3.4."],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_an_address_in_decimal_octal_or_hexadecimal_is_refused(host: str, allow_private: bool) -> None:
    with pytest.raises(Refused, match=r"plain form|Invalid IPv4"):
        check_url(f"http://{host}/", allow_private=allow_private)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.com/a", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://example.com/", "http:// or https://"),
        ("//example.com/", "http:// or https://"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://user:secret@example.com/", "password"),
        ("http://user@example.com/", "password"),
        ("http://example.com:99999/", "port"),
        ("http://exa mple.com/", "characters"),
        ("http://example.com/\r\nHost: x", "no URL"),
        ("http://[fe80::1%25eth0]/", "characters|no URL"),
        ("http://localhost/", "this machine"),
        ("http://a.localhost./", "this machine"),
        ("http://example.com/" + "a" * MOST, "characters"),
    ],
)
def test_a_url_that_names_no_place_to_go_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        check_url(url, allow_private=False)


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_either_a_url_or_refused(text: str, allow_private: bool) -> None:
    for url in (text, f"http://{text}", f"https://{text}/"):
        try:
            host = check_url(url, allow_private=allow_private).host
        except Refused:
            continue
        assert host


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_address_is_judged_like_itself(address: object) -> None:
    inner = ip_address(str(address))
    number = int(inner)
    for outer in (number | 0xFFFF << 32, number | 0x64FF9B << 96, number << 80 | 0x2002 << 112):
        assert is_public(ip_address(outer.to_bytes(16))) == is_public(inner)


@pytest.mark.parametrize(
    "url",
    [
        "http://@example.org/",
        "http://:@example.org/",
        "http://evil.example\\@example.org/",
        "http://example.org\\.evil/",
        "http://exa mple.org/",
        "http://example.org%2eevil/",
        "http://a,b/",
        "http://a..b/",
        "http://!$&'()*+,;=/",
        "http://[::1%25lo]/",
        f"http://{'a' * 64}.org/",
        f"http://{'a.' * 130}org/",
    ],
)
def test_a_host_that_is_none_is_refused_however_it_is_dressed_up(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url, allow_private=True)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://Example.ORG./x", "example.org"),
        ("https://example.org:443/", "example.org"),
        ("https://example.org:8443/", "example.org:8443"),
        ("http://[2606:4700::1111]/", "2606:4700::1111"),
    ],
)
def test_a_destination_is_the_same_however_it_is_spelled(url: str, same: str) -> None:
    assert destination(url) == same


@given(st.text(max_size=40))
def test_no_text_is_both_a_host_and_more_than_a_host(text: str) -> None:
    found = authority(text)
    if found is not None:
        assert not set(text) & set("@/\\?#%, \t\r\n") and text.isascii()
