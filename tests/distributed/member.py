"""One process of a launch: the globals ENVIRONMENT, WORDS, LOG and AGENT come from the test that started it."""

import os
import sys
from dataclasses import replace

sys.stdout.flush()
os.environ.update(globals()["ENVIRONMENT"])
os.chdir(os.environ["FOLDER"])
log = os.open(globals()["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)
sys.argv = ["dcp-deploy", *globals()["WORDS"]]


def program() -> None:
    """Run the command, with a checkpoint after every step."""
    from dcp_deploy.cli.app import main
    from dcp_deploy.compression import RECIPES

    RECIPES["quick"] = replace(RECIPES["quick"], checkpoint_every=1)
    main()


if address := globals()["AGENT"]:  # torchrun's own agent, for a node of two processes at this address
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=2, max_nodes=2, nproc_per_node=2, run_id="test", rdzv_backend="c10d", max_restarts=2,
        rdzv_endpoint=os.environ["RENDEZVOUS"], local_addr=address, start_method="fork", monitor_interval=0.2,
        rdzv_configs={"is_host": address == "127.0.0.1"},
    )  # fmt: skip
    elastic_launch(config, program)()
else:
    program()
