#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prepares the Markdown files of the repository for Doxygen, and finishes what Doxygen made of them.

    prepare.py input REPOSITORY FOLDER    writes every Markdown file and every public header into FOLDER
    prepare.py finish REPOSITORY HTML MATHJAX
                                          copies figures, the files that pages link to and MathJax into the folder HTML

The files are written for GitHub: headings have GitHub's anchors, links are relative paths, and equations are between
dollars. Doxygen 1.9.4 knows none of the three."""
import html
import pathlib
import re
import shutil
import sys
import urllib.parse

import header

SKIPPED = ("build", "out", ".git", ".cache")


def markdown_files(repository: pathlib.Path) -> list[pathlib.Path]:
    found = [p.relative_to(repository) for p in repository.rglob("*.md")]
    return sorted(p for p in found if not p.parts[0].startswith(SKIPPED))


def slug(title: str) -> str:
    """GitHub's anchor of a heading."""
    text = re.sub(r"`|\*|\[|\]\([^)]*\)", "", title).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def page_id(path: pathlib.Path) -> str:
    """docs/guide.md: guide. bench/RESULTS.md: bench_RESULTS."""
    name = path.as_posix().removesuffix(".md").removeprefix("docs/").removeprefix("include/gma/")
    return re.sub(r"\W", "_", name)


def is_public(repository: pathlib.Path, path: pathlib.Path) -> bool:
    if path.parts[:2] != ("include", "gma"):
        return False
    return header.is_public(path.relative_to("include").as_posix(), (repository / path).read_text(encoding="utf-8"))


def public_headers(repository: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(p.relative_to(repository) for p in (repository / "include/gma").rglob("*.hpp"))
    return [path for path in found if is_public(repository, path)]


def anchor(path: pathlib.Path, heading: str) -> str:
    return page_id(path) + "-" + heading


class Page:
    """One Markdown file. `others` are the files that it links to and that are no pages."""

    def __init__(self, repository: pathlib.Path, path: pathlib.Path, names: set[str]):
        self.repository, self.path, self.others, self.slugs = repository, path, set(), {}
        self.names = names if path.parts[0] == "docs" else set()  # what code spans link to

    def target(self, link: str) -> str:
        """What Doxygen calls the target of a link of this page."""
        if re.match(r"[a-z]+:", link):
            return link
        name, _, heading = link.partition("#")
        path = self.path
        if name:
            full = (self.repository / self.path.parent / urllib.parse.unquote(name)).resolve()
            path = full.relative_to(self.repository)
            if full.is_dir():
                if not (full / "README.md").exists():
                    return self.other(path)
                path = path / "README.md"
        if path.suffix == ".md":
            return "@ref " + (anchor(path, heading) if heading else page_id(path))
        if path.suffix == ".hpp" and is_public(self.repository, path):
            return f'@ref {path.relative_to("include").as_posix()}'
        return self.other(path)

    def other(self, path: pathlib.Path) -> str:
        self.others.add(path)
        return copied_name(path)

    def inline(self, line: str) -> str:
        """Links, equations, and what Doxygen would take for commands, outside of code spans."""
        if re.fullmatch(r"\|[-:| ]+\|", line):
            return line
        links = []

        def keep(match: re.Match) -> str:
            links.append(self.link(*match.groups()))
            return f"\0{len(links) - 1}\0"

        line = re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)", keep, line)
        parts = re.split(r"(`+[^`]*`+)", line)
        for i, part in enumerate(parts):
            if i % 2:
                parts[i] = self.code_span(part)
                continue
            formulas = re.split(r"(?<![\w\\$])\$([^$]+)\$(?!\w)", part)
            for j in range(0, len(formulas), 2):
                formulas[j] = self.text(formulas[j])
            for j in range(1, len(formulas), 2):
                formulas[j] = r"\f$" + formulas[j] + r"\f$"
            parts[i] = "".join(formulas)
        text = re.sub(r"\*\*(?=\S)(.+?)\*\*", r"<b>\1</b>", "".join(parts))  # Doxygen has no tags within **
        return re.sub("\0(\\d+)\0", lambda m: links[int(m.group(1))], text)

    def code_span(self, span: str) -> str:
        name = span.strip("`").removesuffix("()").removeprefix("gma::")
        if "gma::" + name in self.names:
            return f'@ref gma::{name} "{span.strip("`")}"'
        return header.escaped("`" + span.strip("`").replace("\\|", "|").strip() + "`")

    @staticmethod
    def text(text: str) -> str:
        """What Doxygen would take for a command or a tag."""
        text = re.sub(r"\\(?![|*_#<>\[\]`])", r"\\\\", text)
        text = re.sub(r"[@%#](?=\w)", lambda m: "\\" + m.group(0), text).replace("--", "\\--")
        return re.sub(r"<(?!/?(?:br|sub|sup|b|i)>)", "&lt;", text)

    def link(self, is_image: str, text: str, link: str) -> str:
        if is_image:
            path = (self.repository / self.path.parent / link).resolve().relative_to(self.repository)
            return f'<img class="figure" src="{self.other(path)}" alt="{html.escape(text)}"/>'
        target = self.target(link)
        if target.startswith("@ref"):
            return f'{target} "{text.replace("`", "").replace(chr(34), "&quot;")}"'
        return f'<a href="{target}">{self.inline(text)}</a>'

    def heading(self, line: str, is_first: bool) -> str:
        marks, title = re.match(r"(#+) (.*)", line).groups()
        name = slug(title)
        count = self.slugs[name] = self.slugs.get(name, -1) + 1
        if is_first and self.path.as_posix() == "docs/index.md":
            return f"{marks} {title} {{#mainpage}}"
        label = page_id(self.path) if is_first else anchor(self.path, name + (f"-{count}" if count else ""))
        title = re.sub(r"`([^`]*)`", lambda m: m.group(1), title)
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("[", "\\[")
        return f"{marks} {self.text(title)} {{#{label}}}"

    def convert(self) -> str:
        lines = (self.repository / self.path).read_text(encoding="utf-8").split("\n")
        out, fence, is_first, i = [], "", True, 0
        while i < len(lines):
            line = lines[i]
            i += 1
            if fence:
                if line.strip() == "```":
                    out.append("\\f]" if fence == "math" else "@endcode" if fence == "code" else "@endverbatim")
                    fence = ""
                else:
                    out.append(line)
            elif line.startswith("```"):
                language = line.strip("` ")
                fence = "math" if language == "math" else "code" if language in ("cpp", "python", "cmake") else "plain"
                extension = {"cpp": "cpp", "python": "py", "cmake": "unparsed"}.get(language, "")
                out.append({"math": "\\f[", "code": f"@code{{.{extension}}}", "plain": "@verbatim"}[fence])
            elif line.startswith("<!--"):  # a comment, which may have several lines
                while "-->" not in line:
                    line, i = lines[i], i + 1
            elif re.match(r" {4,}\S", line) and (not out or not out[-1].strip()) and not self.in_list(out):
                block = [line]
                while i < len(lines) and (re.match(r" {4}", lines[i]) or not lines[i].strip()):
                    block.append(lines[i])
                    i += 1
                while not block[-1].strip():
                    block.pop()
                    i -= 1
                out += ["@verbatim"] + [b[4:] for b in block] + ["@endverbatim"]
            elif re.match(r"#+ ", line):
                out.append(self.heading(line, is_first))
                is_first = False
            else:
                whole = line  # a link may go over the end of a line
                while re.search(r"\[[^\]]*$", whole) and i < len(lines) and re.match(r"[^|`#\-*]", lines[i] or "|"):
                    whole, i = whole + " " + lines[i].strip(), i + 1
                out.append(self.inline(whole))
        return "\n".join(out) + "\n"

    @staticmethod
    def in_list(out: list[str]) -> bool:
        for line in reversed(out):
            if line.strip():
                return bool(re.match(r"\s*([-*]|\d+\.) |  +\S", line)) and not line.startswith("@")
        return False


def copied_name(path: pathlib.Path) -> str:
    """Where the site has a file of the repository. Browsers show text only if its name says that it is text."""
    name = "files/" + path.as_posix()
    return name if path.suffix in (".svg", ".png") else name + ".txt"


def all_pages(repository: pathlib.Path) -> list[Page]:
    names: set[str] = set()
    for path in public_headers(repository):
        names |= header.public_names(header.convert((repository / path).read_text(encoding="utf-8"), ""))
    return [Page(repository, path, names) for path in markdown_files(repository)]


def write_input(repository: pathlib.Path, folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pages").mkdir(parents=True)
    for page in all_pages(repository):
        (folder / "pages" / (page_id(page.path) + ".md")).write_text(page.convert(), encoding="utf-8")
    for path in public_headers(repository):
        copy = folder / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = header.convert((repository / path).read_text(encoding="utf-8"), copied_name(path))
        copy.write_text(text, encoding="utf-8")


def check_namespaces(repository: pathlib.Path, site: pathlib.Path) -> None:
    """Doxygen leaves out, without a warning, what is in a namespace without a comment."""
    for path in public_headers(repository):
        for name in header.public_namespaces((repository / path).read_text(encoding="utf-8")):
            page = "namespace" + name.replace("_", "__").replace("::", "_1_1") + ".html"
            if not (site / page).exists():
                raise SystemExit(f"{path}: namespace {name} has no comment; docs/site/namespaces.dox is the place for one")


def finish(repository: pathlib.Path, site: pathlib.Path, mathjax: pathlib.Path) -> None:
    check_namespaces(repository, site)
    linked = set(public_headers(repository))
    for page in all_pages(repository):
        page.convert()
        linked |= page.others
    for path in sorted(linked):
        source, copy = repository / path, site / copied_name(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            copy.write_text("\n".join(sorted(p.name for p in source.iterdir())) + "\n")
        else:
            shutil.copyfile(source, copy)
    for part in ("MathJax.js", "config", "extensions", "jax/element", "jax/input/TeX", "jax/output/SVG"):
        copy = site / "mathjax" / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (mathjax / part).is_dir():
            shutil.copytree(mathjax / part, copy, ignore=shutil.ignore_patterns("Asana*", "Gyre*", "Latin*", "Neo*", "STIX*"))
        else:
            shutil.copyfile(mathjax / part, copy)


if __name__ == "__main__":
    folders = [pathlib.Path(p).resolve() for p in sys.argv[2:]]
    {"input": write_input, "finish": finish}[sys.argv[1]](*folders)
