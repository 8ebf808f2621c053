#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A header as Doxygen reads it: its public part, up to the line "Implementation", with the comments in Doxygen's own
form. The comments are plain text: every character stands for itself, an indented line is a formula, and a comment serves
all declarations that follow it without an empty line."""
import re

# Everything of these folders and namespaces is for the library itself.
INTERNAL_ROOMS = ("gma/kernels/", "gma/compiled")
INTERNAL_NAMESPACES = ("detail", "kernels", "plain", "packets")
# Names that mean the same wherever they are: members of these names need no comment of their own.
_FAMILY = "Of the contract of a covariance family: see gma/mixture/family.hpp."
_FIT = "Of the contract of a family's fit: see gma/mixture/family_fit.hpp."
_MAP = "Of the contract of a feature map: see gma/mixture/feature_map.hpp."
_ROUTING = "As in LayerRouting."
MEANINGS = {
    "Scalar": "The number type.", "S": "The number type.", "Type": "What a head of the layer holds.",
    "components": "K.", "dim": "d.",
    **dict.fromkeys(("name", "shares_scales", "log_scales_are_log_deviations", "features", "scale_cols"), _FAMILY),
    **dict.fromkeys(("M", "needs_covariances", "standardize", "displace", "maximize_scales"), _FIT),
    **dict.fromkeys(("is_signed", "check", "evaluate", "backward"), _MAP),
    **dict.fromkeys(("visit_shapes", "put_constants", "get_constants", "visit"), _ROUTING),
}
ESCAPES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{c: "\\" + c for c in "\\@#*_%$|[]"}}


# (1) to (10), the numbers of equations.
EQUATION = re.compile(r"(?<![\w)])(?<!version )\((10|[1-9])\)")


def equation(match: re.Match) -> str:
    number = int(match.group(1))
    section = "mixture" if number < 3 else "memory" if number < 8 else "causal-attention-and-forgetting"
    return f'(@ref mathematics-{section} "{number}")'


def escaped(text: str) -> str:
    """Plain text: nothing is a command, a tag or emphasis. Code spans stay code. `::` and () still make links."""
    parts = re.split(r"(`[^`]*`)", text)
    for i, part in enumerate(parts):
        code = part.startswith("`")
        part = re.sub(r"\w_(?=\w)|[\\@<>#&*_~%$|\[\]]", lambda m: ESCAPES.get(m.group(0), m.group(0)), part.strip("`"))
        part = part.replace("--", "\\--")
        parts[i] = f"<code>{part}</code>" if code else EQUATION.sub(equation, part)
    return "".join(parts)


def block(lines: list[str], opening: str = "") -> list[str]:
    """Lines of text as one comment of as many lines; those that are indented keep their layout."""
    out, is_formula = [], False
    for line in lines:
        indented = bool(re.match(r"  +\S", line))
        if indented != is_formula and line.strip():
            if indented:
                out.append("@verbatim")
            else:
                out.append("@endverbatim")
            is_formula = indented
        out.append(line if is_formula else escaped(line))
    if is_formula:
        out.append("@endverbatim")
    return ["/** " + opening] + [line.replace("*/", "* /") for line in out] + ["*/"]


class Declarations:
    """Finds the end of a declaration: its ';', or the '}' of its body."""

    def __init__(self):
        self.depth, self.seen_brace = 0, False

    def ends_with(self, line: str) -> bool:
        code = re.sub(r"//.*", "", line)
        code = re.sub(r'"(?:[^"\\]|\\.)*"', "", code)
        if code.startswith("#"):
            return False
        self.depth += sum(code.count(c) for c in "({[") - sum(code.count(c) for c in ")}]")
        if self.depth == 0 and re.search(r"[;}]\s*$", code):
            return True
        return False


def public_part(text: str) -> list[str]:
    """The lines before "Implementation", and what has a comment after it in a namespace that is not internal."""
    declarations, _, implementation = text.partition("\n// Implementation -")
    kept = declarations.split("\n")
    spaces: list[str] = []
    for line in kept:
        follow_namespaces(line, spaces)
    for space in reversed(spaces):
        kept.append("}  // namespace " + space)
    lines, i = implementation.split("\n"), 0
    while i < len(lines):
        follow_namespaces(lines[i], spaces)
        if lines[i].startswith("///") and spaces and not any(s.split("::")[-1] in INTERNAL_NAMESPACES for s in spaces):
            kept += ["namespace " + "::".join(spaces) + " {"]
            declaration = Declarations()
            while True:
                kept.append(lines[i])
                i += 1
                if not lines[i - 1].startswith("///") and declaration.ends_with(lines[i - 1]):
                    break
            kept += ["", "}  // namespace " + "::".join(spaces)]
        else:
            i += 1
    return kept


def follow_namespaces(line: str, spaces: list[str]) -> None:
    if opening := re.match(r"namespace ([\w:]+) \{$", line):
        spaces.append(opening.group(1))
    elif re.match(r"\}  // namespace", line):
        spaces.pop()


def public_namespaces(text: str) -> set[str]:
    found, spaces = set(), []
    for line in public_part(text):
        follow_namespaces(line, spaces)
        path = "::".join(spaces)
        if path and not any(part in INTERNAL_NAMESPACES for part in path.split("::")):
            found.add(path)
    return found


def is_public(name: str, text: str) -> bool:
    """Whether the header gma/... declares a public name, or only includes such headers."""
    if name == "gma/kernels/products.hpp":
        return True  # product_into()
    return not name.startswith(INTERNAL_ROOMS) and ("namespace" not in text or bool(public_namespaces(text)))


def one_name_a_line(line: str) -> list[str]:
    """`int a = 0, b;  ///< text` as two lines, both with the text."""
    found = re.match(r"( +)([\w:][\w:<>,* ]*?[>\w*]) (\w+(?: = [^,;()]+)?(?:, \w+(?: = [^,;()]+)?)+);( *///<.*)?$", line)
    if not found or "operator" in line or found.group(2).split()[0] in ("return", "using", "template"):
        return [line]
    indent, kind, names, comment = found.groups()
    return [f"{indent}{kind} {name};{comment or ''}" for name in names.split(", ")]


def convert(text: str, source: str) -> str:
    """`source` is the link to the whole file."""
    kept = public_part(text)
    out, shared, declaration, i = [], [], None, 0

    # The opening comment is the manual of the file.
    while i < len(kept) and kept[i].startswith("//"):
        i += 1
    manual = [line[3:] for line in kept[:i] if "SPDX" not in line]
    link = ["", f'<a href="{source}">The whole header</a>']
    out += block(manual, "@file\n")[:-1] + link + ["*/"] if manual else []

    kept[i:] = [part for line in kept[i:] for part in one_name_a_line(line)]
    members, member, is_private = [], None, False
    while i < len(kept):
        line = kept[i]
        indent = re.match(r" *", line).group(0)
        if re.match(r" *///(?!<)", line):
            comment = []
            while i < len(kept) and re.match(r" *///(?!<)", kept[i]):
                comment.append(re.sub(r"^ */// ?", "", kept[i]))
                i += 1
            lines_of_block = block(comment)
            out += lines_of_block
            if not indent:
                shared, declaration = lines_of_block, Declarations()
            else:
                members, member = lines_of_block, Declarations()
            continue
        is_documented = "///<" in line
        if is_documented:
            code, text_after = line.split("///<", 1)
            line = code + "///<" + escaped(text_after)
        i += 1
        if re.search(r"= (default|delete);", line) or re.match(r"  friend ", line):
            continue  # of no interest to a reader
        if declaration is None and shared and re.match(r"[a-zA-Z]", line) and not line.startswith("namespace"):
            out += shared  # a further declaration of the same comment
            declaration = Declarations()
        if re.match(r" {0,1}(public|protected|private):", line):
            is_private = "private" in line
        if len(indent) == 2 and member is None and re.match(r"  [a-zA-Z]", line) and not is_documented:
            is_function = re.search(r"\w\(", line) or line.startswith("  template")
            if members and (is_function or line.split()[0] == last_type):
                out += members
            elif not is_private:
                ahead = kept[i] if line.startswith("  template") else line
                name = re.search(r"using (\w+) =|(\w+)\(|(\w+)(?: = [^;]*)?;", ahead)
                meaning = MEANINGS.get(next((g for g in name.groups() if g), "")) if name else None
                if meaning:
                    out += ["/** " + meaning + " */"]
            member = Declarations()
        if not line.strip():
            members = []
        out.append(line)
        if member is not None:
            last_type = line.split()[0] if line.split() else ""
            if member.ends_with(line):
                member = None
        if declaration is not None:
            if declaration.ends_with(line):
                declaration, member, members, is_private = None, None, [], False
        elif not re.match(r"[a-zA-Z ]", line):
            shared = []
    return "\n".join(out) + "\n"


def public_names(converted: str) -> set[str]:
    """The names that a converted header declares, such as gma::causal and gma::Options::tile."""
    names, spaces, kind = set(), [], ""
    for line in re.sub(r"/\*\*.*?\*/", "", converted, flags=re.S).split("\n"):
        follow_namespaces(line, spaces)
        if any(part in INTERNAL_NAMESPACES for space in spaces for part in space.split("::")):
            continue
        path = "::".join(spaces)
        line = re.sub(r"//.*", "", line)
        if found := re.match(r"(?:struct|class|enum class) (\w+)(?: final)?(?: :.*)? \{", line):
            kind = path + "::" + found.group(1)
            names.add(kind)
        elif re.match(r"[a-zA-Z].*?\b(\w+)\(", line) and not line.startswith(("template", "static_assert")):
            names.add(path + "::" + re.match(r"[a-zA-Z].*?\b(\w+)\(", line).group(1))
        elif found := re.match(r"using (\w+) =|inline constexpr .*?(\w+) =", line):
            names.add(path + "::" + (found.group(1) or found.group(2)))
        elif (found := re.match(r"  [\w:].*?\b(\w+)(?: = .*|\{.*)?;", line)) and kind:
            names.add(kind + "::" + found.group(1))
        if line.startswith("}"):
            kind = ""
    return names
