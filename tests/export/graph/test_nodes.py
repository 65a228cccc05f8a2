from __future__ import annotations

from dcp_deploy.export.graph.nodes import op_schema
from dcp_deploy.export.graph.operators import PLUGIN, VERSION, operator_types


def test_every_node_carries_what_the_plugin_route_reads() -> None:
    for op_type in operator_types():
        assert set(PLUGIN) <= set(op_schema(op_type).attributes)
        assert op_schema(op_type).since_version == VERSION
