"""One of two processes, the told one of which fails after a collective that both take part in."""

from processes import join

from hyperface.runs import program


def main(_) -> None:
    """Meets the other once; then the told one fails, where the other waits for it."""
    process, _, (failing,) = join()
    from jax.experimental import multihost_utils

    from hyperface.devices import processes
    from hyperface.errors import InputError

    multihost_utils.process_allgather(process)
    if process == int(failing):
        raise InputError("expected a whole record, found a damaged one.")
    if process == 0:
        multihost_utils.process_allgather(process)
    else:
        processes.wait_for_all("never")


if __name__ == "__main__":
    program.run(main)
