"""Where the kernel's own module is wrong on purpose of no one, and this one is right.

A test marked improvement("ID") must fail with the kernel's own module (otherwise it proves
nothing) and pass with this one. The reasons stand here and nowhere else.
"""

IMPROVEMENTS = {
}
