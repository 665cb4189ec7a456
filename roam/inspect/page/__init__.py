"""The page of a plan: one HTML file that answers questions, without a network.

columns     a planned graph as columns of numbers
still       the still picture, for print and for readers that run no script
document    puts data, scripts and styles into one file
assets/     the scripts and styles, and the modules of d3 that they use
"""

from roam.inspect.page.document import comparison_page, in_frame, step_page

__all__ = ["comparison_page", "in_frame", "step_page"]
