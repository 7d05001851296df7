# SPDX-License-Identifier: Apache-2.0
"""Manual pages and shell completions, from the definitions that the command line is made of; and
what hooks have to know of the definitions of programs.

`make generated` writes them; a test says when they are not current. Our own, because what others
generate is less than what there is to say, and no shorter: argparse-manpage prints the help texts,
and has no place for states, settings, files or examples; shtab (twice as many lines for bash, a
table of every option's number of arguments) completes neither process numbers nor snapshots.
"""
