"""``wsipipe completion``: have a shell complete commands, options and file names."""

from __future__ import annotations

import click

from wsipipe.cli.command import Command

VARIABLE = "_WSIPIPE_COMPLETE"
"""The variable by which the script asks wsipipe what could come next; click derives it from the program's name."""


@click.command(
    cls=Command,
    examples=(
        ('eval "$(wsipipe completion bash)"', "in ~/.bashrc"),
        ('eval "$(wsipipe completion zsh)"', "in ~/.zshrc, after compinit"),
        ("wsipipe completion fish | source", "in ~/.config/fish/config.fish"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete wsipipe's commands, options and file names.

    Put the line of your shell, below, into its start file, and open a new shell.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, "click has the shells that the argument allows"
    click.echo(made(click.get_current_context().find_root().command, {}, "wsipipe", VARIABLE).source(), nl=False)
