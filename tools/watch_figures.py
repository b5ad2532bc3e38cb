"""Run in a lesson's kernel before its first cell: a figure that is shown without a title complains on stderr."""


def watch_figures():
    import sys

    from matplotlib.backend_bases import FigureCanvasBase

    draw = FigureCanvasBase.print_figure

    def print_figure(canvas, *args, **kwargs):
        figure = canvas.figure
        panels = [a for a in figure.axes if a.has_data() and a.get_label() != "<colorbar>"]
        if figure.get_suptitle() == "" and any(a.get_title() == "" for a in panels):
            print("a figure, or one of its panels, has no title", file=sys.stderr)
        return draw(canvas, *args, **kwargs)

    FigureCanvasBase.print_figure = print_figure


watch_figures()
del watch_figures
