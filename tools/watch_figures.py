"""Run in a lesson's kernel before its first cell: what is wrong with a figure that is shown goes to stderr.

Every figure says what it shows, has 144 dots an inch, and its photographs are 200 pixels wide.
"""


def watch_figures():
    import sys

    from matplotlib.backend_bases import FigureCanvasBase

    draw = FigureCanvasBase.print_figure

    def wrong(figure):
        panels = [a for a in figure.axes if a.has_data() and a.get_label() != "<colorbar>"]
        titles = [bool(a.get_title() or figure.get_suptitle()) for a in panels]
        said = any(titles) or any(a.get_ylabel() for a in panels)  # rows of pictures are labelled once
        if not said or not all(title or a.images for title, a in zip(titles, panels)):
            yield "a figure, or one of its panels, has no title"
        if figure.dpi != 144:
            yield f"a figure has {figure.dpi:g} dots an inch, not 144"
        for axis in panels:
            picture = [
                image for image in axis.images if image.get_array().ndim == 3
            ]  # a table of numbers has 2
            if picture and axis.get_window_extent().width < 200:
                yield f"a photograph is {axis.get_window_extent().width:.0f} pixels wide, not 200"

    def print_figure(canvas, *args, **kwargs):
        result = draw(canvas, *args, **kwargs)
        print(*wrong(canvas.figure), sep="\n", end="", file=sys.stderr)
        return result

    FigureCanvasBase.print_figure = print_figure


watch_figures()
del watch_figures
