"""`fleetnet completion`: what a shell needs to complete our command line."""

import click
from click.shell_completion import get_completion_class

_WHERE = {
    "bash": 'eval "$(fleetnet completion bash)"            # in ~/.bashrc',
    "zsh": 'eval "$(fleetnet completion zsh)"             # in ~/.zshrc, behind compinit',
    "fish": "fleetnet completion fish > ~/.config/fish/completions/fleetnet.fish",
}


@click.command(epilog="\b\n" + "\n".join(_WHERE.values()))
@click.argument("shell", type=click.Choice(list(_WHERE)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and device names."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(ctx.find_root().command, {}, "fleetnet", "_FLEETNET_COMPLETE")
    # Not source(): of bash it asks the version of the one in PATH, which need not be the shell.
    click.echo(made.source_template % made.source_vars())
