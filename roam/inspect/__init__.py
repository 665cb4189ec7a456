"""Reports, pictures and exports of plans. No planning depends on this room.

Read `moment` first: it lists what a step holds at one time, item by item. Most others use it.

    report, record      every graph that the backend planned in this process, or why it did not
    step_plan, nesting, all graphs of one step together: peak, total, `fits`, the plan's file
    step_file
    explain, gradients  why the peak is as high as it is; how long each gradient lives
    breakdown, compare  bytes by module and kind, and what grew between two plans
    tree_view           the tree of segments of a plan, in words
    recomputed, moved,  what a graph recomputes, moves to a tier, loads from it, keeps smaller, or
    stored, shrunk,     runs in blocks
    split_groups
    timeline, step_time when ops and transfers run, and how long they take together
    proof, verify       prove the lower bound of a plan that was read from a file
    measure             what a call really allocates
    page/               the page of a plan, or of two: HTML that loads nothing
    boxes, palette      rectangles and colours of `picture` (SVG, PNG) and the page
    sparkline           a curve as a line of text
    export/             formats of other tools
"""
