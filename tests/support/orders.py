"""Whether the steps in csrc/protocol.h have the operations and orders that csrc/billiards_shm.h specifies.

This kind of processor never shows that a fence is missing. The header was checked by models; this compares the
code with the header, operation by operation.
"""

import re
from pathlib import Path

WRITER, LEASE = "WRITER, one thread at a time", "READER WITH A LEASE, one thread at a time"
OPERATION = re.compile(r"\b(load|store|fetch_and|fetch_or|strong CAS|fence)\(((?:[^()]|\([^()]*\))*)\)")
ORDERS = "relaxed", "acquire", "release", "acq_rel", "seq_cst"
# The names of ordering.h's functions, and what they do.
FUNCTIONS = {
    "load_relaxed": ["load relaxed"],
    "load_acquire": ["load acquire"],
    "store_relaxed": ["store relaxed"],
    "store_release": ["store release"],
    "claim_acquire": ["strong CAS acquire relaxed"],
    "pin_acquire_release": ["fetch_or acq_rel", "load acquire"],
    "clear_release": ["fetch_and release"],
    "fence_seq_cst": ["fence seq_cst"],
    "fence_acquire": ["fence acquire"],
}
BUILTINS = {
    "load_n": "load",
    "store_n": "store",
    "fetch_and": "fetch_and",
    "fetch_or": "fetch_or",
    "fetch_add": "fetch_add",
    "fetch_sub": "fetch_sub",
    "exchange_n": "exchange",
    "compare_exchange_n": "weak CAS",
    "strong_compare_exchange_n": "strong CAS",
    "thread_fence": "fence",
}
# Also in ordering.h, for words that no step names.
OTHERS = {
    "seize_acquire": ["exchange acquire"],
    "word_load": ["load acquire"],
    "reference_take": ["fetch_add relaxed"],
    "reference_drop": ["fetch_sub acq_rel"],
    "touch": ["fetch_or relaxed", "load relaxed"],
    "add_relaxed": [],  # by two of the others
}


def _steps_of_the_header(text: str) -> dict[str, list[str]]:
    """The operations of each step, in order."""
    steps: dict[str, list[str]] = {}
    for title in (WRITER, LEASE):
        section = text.split(f" * {title}\n", 1)[1].split("\n *\n *\n", 1)[0]
        for name, body in re.findall(r"^ \*   ([WR]\d+) +(.*(?:\n \*    .*|\n \*$)*)", section, re.MULTILINE):
            steps[name] = [
                " ".join([kind, *re.findall(rf"\b({'|'.join(ORDERS)})\b", arguments)])
                for kind, arguments in OPERATION.findall(body)
            ]
    return steps


def _functions(text: str, prefix: str) -> dict[str, tuple[str, str]]:
    """Comment and body of each function."""
    found = re.findall(
        rf"(?:/\*((?:(?!\*/).)*)\*/\n)?static inline [^\n]*\b{prefix}(\w+)\((?:[^;{{]*)\)\n\{{\n(.*?)\n\}}\n",
        text,
        re.DOTALL,
    )
    return {name: (comment, body) for comment, name, body in found}


def _operations(body: str) -> list[str]:
    """What a step of protocol.h does. Accesses to descriptors and the writer's own words are relaxed, in any order."""
    body = re.sub(r"bshm_load_relaxed(32)?\(&[^;]*?(info\[i\]|notify)\)", "", body)
    body = re.sub(r"bshm_store_relaxed\(&[^;]*?info\[i\], [^;]*\);", "", body)
    calls = re.findall(r"\bbshm_((?:load|store|claim|pin|clear|fence)_[a-z_]+)(?:32)?\(", body)
    return [operation for call in calls for operation in FUNCTIONS[call]]


def _built_in_operations(body: str) -> list[str]:
    """What a function of ordering.h does."""
    body = body.replace("compare_exchange_n(&word->shared, &expected, desired, false", "strong_compare_exchange_n(")
    return [
        " ".join([BUILTINS[name], *(order.lower() for order in re.findall(r"__ATOMIC_(\w+)", arguments))])
        for name, arguments in re.findall(r"__atomic_(\w+)\(((?:[^()]|\([^()]*\))*)\)", body)
    ]


def flaws(csrc: Path) -> list[str]:
    """Where the code differs from the header."""
    header = _steps_of_the_header((csrc / "billiards_shm.h").read_text())
    found: list[str] = []
    code: dict[tuple[str, ...], list[str]] = {}
    for comment, body in _functions((csrc / "protocol.h").read_text(), "bshm_step_").values():
        named = re.match(r"\s*((?:[WR]\d+(?:, )?)+)", comment)
        if named:
            code.setdefault(tuple(re.findall(r"[WR]\d+", named[1])), []).extend(_operations(body))
    for steps, operations in code.items():
        wanted = [operation for step in steps for operation in header[step]]
        if operations != wanted:
            found.append(f"protocol.h: {', '.join(steps)} do {operations}, but the header says {wanted}")
    missing = {step for step in header if header[step]} - {step for steps in code for step in steps}
    found += [f"protocol.h: no function is said to be {step}" for step in sorted(missing)]
    wait = re.search(r"\nvoid bshm_reader_wait\(.*?\n\}\n", (csrc / "reader.c").read_text(), re.DOTALL)
    looks = re.findall(r"\b(bshm_load_\w+\(&publication->\w+|bshm_attachment_is_newer)\b", wait[0]) if wait else []
    if looks != [
        "bshm_load_acquire32(&publication->notify",
        "bshm_attachment_is_newer",
        "bshm_load_acquire32(&publication->state",
    ]:
        found.append(f"reader.c: a waiter loads notify, then latest, then state, by acquire; not {looks}")
    functions = _functions((csrc / "ordering.h").read_text(), "bshm_")
    for name, (_, body) in functions.items():
        wanted = (FUNCTIONS | OTHERS)[name.removesuffix("32")]
        if _built_in_operations(body) != wanted:
            found.append(f"ordering.h: {name} does {_built_in_operations(body)}, but its name says {wanted}")
    return found
