"""The network and the clients of servers.py, for every test of this folder."""

from servers import client, connect, trained, workdir

__all__ = ["client", "connect", "trained", "workdir"]
