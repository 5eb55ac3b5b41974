"""The Flower apps: the same for every engine, for ``flwr run`` and on real machines."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedhive import client as trainer
from fedhive import guard
from fedhive.chain import answer, dispatch
from fedhive.client import HiveClientApp
from fedhive.join.answer import arrive, tell

guard.check()  # also inside an app bundle, where another project's folder may lie first

client = HiveClientApp(mods=[arrive, dispatch])
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train on this node's data."""
    return trainer.train(message, context)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on this node's data."""
    return trainer.evaluate(message, context)


@client.query("facts")
def facts(message: Message, context: Context) -> Message:
    """Say what this machine is."""
    return tell(message, context)


@client.query("he_share")
def he_share(message: Message, context: Context) -> Message:
    """Answer the server's half of the protection, as a holder of key shares does."""
    return answer(message, context)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured experiment on the given grid."""
    from fedhive.compose import text_of
    from fedhive.deploy.bundle import RUN_KEY

    submission = context.run_config.get(RUN_KEY)
    if submission:  # somebody's `fedhive run engine=deployment` waits for the results
        from fedhive.deploy.serve import serve as serve_hive

        serve_hive(grid, text_of(context.run_config), str(submission))
        return
    from fedhive.server import serve

    serve(grid, text_of(context.run_config))
