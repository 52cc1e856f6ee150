"""What a speaker reads of a path: at each step the views, and the candidate that the path takes."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from .environment import NOWHERE, Environment, Episodes, State


class PathViews(NamedTuple):
    """Paths of different lengths, a row each; the last step of a path is STOP, then padding follows.

    Angles are as in `views.angle4`, headings relative to the agent's at the step: that of the
    candidate that it has just moved to, at first the episode's. Rows of padding repeat the goal's.
    """

    chosen: Float32[Tensor, "path step dim"]  # of the candidate's view; zeros for STOP
    chosen_angles: Float32[Tensor, "path step 4"]  # zeros for STOP
    views: Float32[Tensor, "path step view dim"]
    view_angles: Float32[Tensor, "path step view 4"]
    is_step: Bool[Tensor, "path step"]


def path_views(environment: Environment, episodes: Episodes) -> PathViews:
    """Return what agents see that walk the references of `episodes`, whose steps must be edges.

    All steps are observed at once, and nothing waits for the device.
    """
    references = episodes.references
    is_step = references[:, :-1] != NOWHERE  # a path of n viewpoints has n - 1 moves and STOP
    at = torch.where(is_step, references[:, :-1], episodes.goals[:, None])
    following = torch.where(references[:, 1:] == NOWHERE, at, references[:, 1:])
    # STOP is the first action that stays: behind it there is only padding.
    actions = (environment.candidate_viewpoints[at] == following[..., None]).int().argmax(-1)
    after = environment.candidate_views[at, actions]  # the view after the move
    views = torch.cat([episodes.start.views[:, None], after[:, :-1]], 1)
    state = State(at.flatten(), views.flatten(), torch.zeros_like(is_step).flatten())
    seen = environment.observe(state)
    rows = torch.arange(len(state.views), device=references.device), actions.flatten()
    return PathViews(
        seen.candidates[rows].unflatten(0, is_step.shape),
        seen.candidate_angles[rows].unflatten(0, is_step.shape),
        seen.views.unflatten(0, is_step.shape),
        seen.view_angles.unflatten(0, is_step.shape),
        is_step,
    )
