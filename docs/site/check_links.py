#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""check_links.py REPOSITORY HTML checks every link of the repository's Markdown files, as GitHub resolves them, and of
the pages in the folder HTML: files and anchors. Links to other sites are listed and not followed."""
import html.parser
import pathlib
import re
import sys
import urllib.parse

import prepare

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def plain_text(markdown: str) -> str:
    """Without blocks of code, comments and code spans, in which nothing is a link."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    return re.sub(r"(?<=\n\n)(?:    .*\n)+", "", text)


def headings(markdown: str) -> set[str]:
    counts: dict[str, int] = {}
    found = set()
    for title in re.findall(r"^#+ (.*)", plain_text(markdown), re.M):
        name = prepare.slug(title)
        counts[name] = counts.get(name, -1) + 1
        found.add(name + (f"-{counts[name]}" if counts[name] else ""))
    return found


def markdown_faults(repository: pathlib.Path, outside: set[str]) -> list[str]:
    faults = []
    texts = {p: (repository / p).read_text(encoding="utf-8") for p in prepare.markdown_files(repository)}
    for path, text in texts.items():
        for link in LINK.findall(plain_text(text)):
            if re.match(r"[a-z]+:", link):
                outside.add(link)
                continue
            name, _, anchor = link.partition("#")
            target = (repository / path.parent / urllib.parse.unquote(name)).resolve() if name else repository / path
            if not target.exists():
                faults.append(f"{path}: {link}: there is no such file")
            elif anchor:
                page = target / "README.md" if target.is_dir() else target
                inside = page.relative_to(repository)
                if inside not in texts or anchor not in headings(texts[inside]):
                    faults.append(f"{path}: {link}: there is no such heading")
    return faults


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.anchors = set(), set()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            if value and ((tag in ("a", "link") and name == "href") or (tag in ("img", "script", "iframe") and name == "src")):
                self.links.add(value)


def html_faults(site: pathlib.Path, outside: set[str]) -> list[str]:
    pages = {}
    for path in sorted(site.glob("*.html")):
        pages[path.name] = Links()
        pages[path.name].feed(path.read_text(encoding="utf-8"))
    if "index.html" not in pages:
        return [f"{site}: there is no index.html"]
    faults = []
    for path, page in pages.items():
        for link in sorted(page.links):
            if re.match(r"[a-z]+:", link):
                if not link.startswith("javascript:"):
                    outside.add(link)
                continue
            name, _, anchor = link.partition("#")
            name = urllib.parse.unquote(name).split("?")[0] or path
            if not (site / name).exists():
                faults.append(f"{path}: {link}: there is no such file")
            elif anchor and name in pages and urllib.parse.unquote(anchor) not in pages[name].anchors:
                faults.append(f"{path}: {link}: there is no such anchor")
    return faults


def main() -> int:
    repository, site = (pathlib.Path(p).resolve() for p in sys.argv[1:])
    outside: set[str] = set()
    faults = markdown_faults(repository, outside) + html_faults(site, outside)
    print("links to other sites, not followed:", *sorted(outside), sep="\n  ")
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
