"""What an error of a job comes down to: Ray wraps those of tasks, actors and training workers, in several ways."""

from robust.errors import UserError


def find_user_error(error: BaseException) -> UserError | None:
    """The UserError inside an exception of Ray's, or None."""
    seen, waiting = set(), [error]
    while waiting:
        candidate = waiting.pop(0)
        if not isinstance(candidate, BaseException) or id(candidate) in seen:
            continue
        seen.add(id(candidate))
        wrapped = getattr(candidate, "cause", None)  # a task's error is an instance of its cause's class, too
        if isinstance(candidate, UserError) and wrapped is None:
            return candidate
        waiting += [wrapped, getattr(candidate, "controller_failure", None), candidate.__cause__, candidate.__context__]
        waiting += (getattr(candidate, "worker_failures", None) or {}).values()
    return None


def reason_of(error: BaseException) -> str:
    """Its kind in one word, of which there are few: the UserError's class inside it, else its own."""
    return type(find_user_error(error) or error).__name__
