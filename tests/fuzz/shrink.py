"""Makes a program that fails small, and keeps it failing in the same way."""


def bodies_in(tree, path=()):
    """Yield the path of each list of operations in a program's phases, outer first."""
    if isinstance(tree, list):
        yield path
    if isinstance(tree, (list, tuple)):
        for index, part in enumerate(tree):
            yield from bodies_in(part, (*path, index))


def at(tree, path):
    for index in path:
        tree = tree[index]
    return tree


def with_part(tree, path, part):
    """Return a tree with another part at a path."""
    if not path:
        return part
    index, *rest = path
    changed = list(tree)
    changed[index] = with_part(tree[index], rest, part)
    return type(tree)(changed)


def smaller(phases):
    """Yield phases with something left out or put simpler, the boldest first."""
    paths = sorted(bodies_in(phases), key=len)
    for path in paths:
        body = at(phases, path)
        size = len(body)
        while size:
            for start in range(0, len(body), size):
                yield with_part(phases, path, body[:start] + body[start + size :])
            size //= 2
    for path in paths:
        body = at(phases, path)
        for index, operation in enumerate(body):
            # What is inside of an operation, in its place.
            if not isinstance(operation, tuple):
                continue
            for part in operation[1:]:
                if isinstance(part, list) and part and isinstance(part[0], tuple):
                    if path:
                        yield with_part(
                            phases, path, body[:index] + part + body[index + 1 :]
                        )
            for place, part in enumerate(operation[1:], 1):
                for simple in simpler(part):
                    yield with_part(phases, (*path, index, place), simple)


def simpler(value):
    if value is None or isinstance(value, (list, bool)):
        return
    if isinstance(value, (int, float)):
        for simple in (0, 1, -1):
            if simple == value:
                return
            yield simple
    elif isinstance(value, (tuple, bytes)):
        for index in range(len(value)):
            yield value[:index] + value[index + 1 :]


def shrink(program, fails, most=3000):
    """Return the smallest program found for which fails(program) is still true."""
    tried = 0
    again = True
    while again:
        again = False
        for phases in smaller(program["phases"]):
            tried += 1
            if tried > most:
                return program
            candidate = {**program, "phases": phases}
            if fails(candidate):
                program, again = candidate, True
                break
    return program
