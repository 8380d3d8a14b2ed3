# SPDX-License-Identifier: Apache-2.0
"""Secrets in a string: known by their name, by their place, or by their form.

The forms are those of detect-secrets (Yelp) and some more; its rules by keyword and by entropy are left out, because
kernel names are long and look random, too. The names are our own: those of command lines and of range names.
"""

import re
from functools import cache, lru_cache
from typing import Any

HIDDEN = "[redacted]"
_STRONG = {
    *("token", "secret", "secrets", "password", "passwd", "passphrase", "pgpass", "apikey", "authtoken", "accesstoken"),
    *("credential", "credentials", "authorization", "bearer", "oauth", "privatekey", "accesskey", "secretkey"),
}
_IN_ARGV = {"pass", "pwd", "auth", "cookie", "cookies", "sig", "signature", "pat", "login"}
# A word in the same name that makes it a size, a kind or a number: num_tokens, token_ids, auth-type, key-value.
_HARMLESS = {
    *("ids", "id", "idx", "index", "num", "n", "max", "min", "count", "per", "type", "len", "length", "size", "pad"),
    *("eos", "bos", "budget", "limit", "rate", "time", "latency", "dim", "block", "value", "values", "cache", "topk"),
}
# Words before `key` that make it a secret: api_key, but not sort_key.
_KEY_OF = {
    *("api", "access", "private", "secret", "ssh", "aws", "wandb", "hf", "openai", "anthropic", "encryption"),
    *("signing", "account", "license", "service", "client", "shared", "storage", "master", "x", "tls", "ssl", "pem"),
}
# Values that are no secret even under a secret's name.
_PLAIN = re.compile(r"[-+]?\d{1,9}(\.\d+)?|true|false|none|null|auto|on|off|yes|no", re.IGNORECASE)
_NAMED = re.compile(r"([A-Za-z_][\w.-]{0,100})(\\*[\"']?\s*\]?\s*(?:=|(?<!:):(?!:|//))\s*)")
_VALUE = re.compile(r"\\+\"[^\"\\]*\\+\"?|\"(?:[^\"\\]|\\.)*\"?|\\+'[^'\\]*\\+'?|'[^']*'?|[^\s,;&\"'\\}\])|]+")
_BEARER = re.compile(r"\b(bearer|basic)\s+(?=[\w.~+/=-]*[\d=._-]|[A-Z]{4})[\w.~+/=-]{4,}", re.IGNORECASE)
_URL = re.compile(r"(?<=://)[^\s/@\"'<>]+(?=@)|(?<=:)[^\s/@:\"'<>]+:[^\s/@:\"'<>]+(?=@[\w.-]+)")
_QUERY = re.compile(
    r"([?&;](?:x-(?:amz|goog)-[\w-]+|[\w.-]{0,80}(?:sig|signature|token|key|secret|password|code|credential)))=([^&\s\"'<>#]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"((?:proxy-)?authorization|x-[\w-]*(?:key|token|auth)[\w-]*|cookie|set-cookie)\s*:\s*([^\"'\n]+)", re.I
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# Also shorter than real ones, as pasted secrets are often cut off.
_FORMS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:sk-(?:[A-Za-z]+-)*[A-Za-z0-9_-]{12,}|sk_(?:live|test)_\w{8,}|hf_[A-Za-z0-9]{12,}|api_org_\w{12,}"
    r"|gh[opsur]_[A-Za-z0-9]{12,}|github_pat_\w{12,}|glpat-[\w-]{8,}|xox[abposre]-[\w-]{8,}|(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{6,}"
    r"|AIza[\w-]{20,}|nvapi-[\w-]{12,}|r8_\w{20,}|npm_\w{20,}|pypi-[\w-]{20,}|dop_v1_\w{20,}|eyJ[\w-]{6,}\.[\w-]{4,}(?:\.[\w-]*)?)"
)
# A quick test: a text without any of these has no secret of any form below.
_MAYBE = re.compile(r"[=:@?&]|bearer|basic|BEGIN|[A-Za-z0-9]{2,}[-_][\w-]{8,}|[A-Z0-9]{16,}|eyJ", re.IGNORECASE)


@lru_cache(10_000)
def is_name(name: str, in_argv: bool = True) -> bool:
    """Return whether a variable, option or key of that name holds a secret: ``HF_TOKEN``, ``api-key``, ``apiKey``.

    ``in_argv``: on a command line, where ``pass`` and ``key`` can only mean a secret.
    """
    words = [w.lower() for w in re.split(r"[_.\-]+|(?<=[a-z0-9])(?=[A-Z])", name) if w]
    for before, word in zip(["", *words], words, strict=False):
        if word == "key" and (before in _KEY_OF or (in_argv and before == "" and len(words) == 1)):
            return True
    if words and words[-1] == "key" and in_argv and name.isupper():
        return True
    known = _STRONG | _IN_ARGV if in_argv else _STRONG
    return any(word in known for word in words) and not any(word in _HARMLESS for word in words)


def hide(value: str, in_argv: bool, found: list[tuple[str, str]]) -> str:
    """Return the string with ``HIDDEN`` in place of every secret; what was hidden is added to ``found``."""
    if not _MAYBE.search(value):
        return value

    def whole(match: re.Match[str]) -> str:
        return _hidden(match.group(0), found)

    def after(match: re.Match[str], sign: str = "=") -> str:
        return match.group(1) + sign + _hidden(match.group(2), found)

    # From the widest form to the narrowest, as a key of many lines may hold what looks like a value or a token.
    value = _PEM.sub(whole, value)
    value = _URL.sub(whole, value)
    value = _QUERY.sub(after, value)
    value = _HEADER.sub(lambda m: after(m, ": "), value)
    value = _BEARER.sub(lambda m: f"{m.group(1)} {_hidden(m.group(0), found)}", value)
    value = _named(value, in_argv, found)
    value = _FORMS.sub(whole, value)
    for form in _detectors():
        value = form.sub(whole, value)
    return value


def _hidden(thing: str, found: list[tuple[str, str]]) -> str:
    if HIDDEN[:-1] not in thing:  # hidden before; without the bracket, at which a value ends
        found.append(("secret", thing))
    return HIDDEN


def _named(value: str, in_argv: bool, found: list[tuple[str, str]]) -> str:
    """Hide the values of secret names: after = or :, quoted or not, also in JSON and Python."""
    out, at = [], 0
    while match := _NAMED.search(value, at):
        out.append(value[at : match.end()])
        at = match.end()
        given = _VALUE.match(value, at) if is_name(match.group(1), in_argv) else None
        if given:
            bare = given.group(0).strip("\\\"'")
            if bare and not _PLAIN.fullmatch(bare):
                quotes = given.group(0).partition(bare)
                out.append(quotes[0] + _hidden(bare, found) + quotes[2])
                at = given.end()
                if bare.startswith(HIDDEN[:-1]) and value[at : at + 1] == "]":
                    at += 1
    return "".join(out) + value[at:]


@cache
def _detectors() -> tuple[re.Pattern[str], ...]:
    """Return the forms of secrets known to detect-secrets."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    left_out = ("IPPublicDetector", "KeywordDetector", "BasicAuthDetector", "PrivateKeyDetector")
    classes: Any = get_mapping_from_secret_type_to_class().values()
    chosen = [c for c in classes if issubclass(c, RegexBasedDetector) and c.__name__ not in left_out]
    return tuple(form for c in chosen for form in c.denylist)
