"""A cluster of dask.distributed in one line: its workers are spawned processes."""

import aioloop

aioloop.install()

from dask_client import add, loop_of_worker  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402

if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
        Client(made) as client,
    ):
        print(sorted(client.run(loop_of_worker).values()))
        print(sum(client.gather(client.map(add, range(100), range(100)))))
