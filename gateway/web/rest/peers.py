"""Peers: where results go, what waits for each, and whether it answers."""

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy import func, select

from gateway.errors import ConfigError, DeliveryError
from gateway.tables import Delivery
from gateway.web.rest._shapes import Done, Shape, done
from gateway.web.site import Here, Site
from gateway.web.who import Operator, Viewer

router = APIRouter(prefix="/peers", tags=["peers"])


class PeerShape(Shape):
    """`deliveries` are counted by state."""

    name: str
    protocol: str
    proof: str
    deliveries: dict[str, int]


class Peers(Shape):
    items: list[PeerShape]


@router.get("")
def list_peers(_person: Viewer, here: Here) -> Peers:
    protocols = {str(table["name"]): str(table.get("protocol", "")) for table in here.config.peers}
    return Peers(
        items=[
            PeerShape(name=name, protocol=protocols.get(name, ""), proof=str(peer.proof), deliveries=_counts(here, name))
            for name, peer in here.plan.peers.items()
        ]
    )


@router.post("/{name}/echo")
def echo(_person: Operator, here: Here, name: Annotated[str, Path(max_length=64)]) -> Done:
    """Ask it whether it answers; 409 says in words why it does not."""
    peer = here.plan.peers.get(name)
    if peer is None:
        raise ConfigError(["there is no such peer"])
    try:
        return done(peer.echo())
    except DeliveryError as error:
        raise ConfigError([str(error)]) from error


def _counts(here: Site, peer: str) -> dict[str, int]:
    counted = select(Delivery.state, func.count()).where(Delivery.peer == peer).group_by(Delivery.state)
    with here.db() as session:
        return {row[0]: row[1] for row in session.execute(counted)}
