"""What mkdocs does to a page beyond its theme: links out of docs/ lead to the repository, and cog's comments go."""

import re
from typing import Any


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Return the page as the site has it; in the repository its links are relative, so that they work there."""
    # On GitHub a | within code ends the cell of a table, here it does not, and the \ before it would show.
    markdown = re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), markdown)
    text = re.sub(r"^<!-- \[\[\[(?:cog\n.*?\]\]\]|end\]\]\]) -->\n?", "", markdown, flags=re.M | re.S)
    return re.sub(r"\]\(\.\./([^)]*)\)", rf"]({config.repo_url}/blob/main/\1)", text)


def on_post_page(output: str, **_: Any) -> str:
    """Return the page with our own script where the theme would load one, and without the theme's own calls."""
    output = output.replace("https://unpkg.com/iframe-worker/shim", "offline.js")
    return output.replace('data-md-component="source"', "")  # else the theme asks GitHub for stars and releases
