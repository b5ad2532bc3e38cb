"""The code of the course, one lesson one module. Import the modules you need; nothing is re-exported here.

module              lesson                it needs, beside torch and numpy
data                01_data_loading       nothing for "sample"; files/ for all other pictures
lab                 02_lab_color          nothing
unet                03_unet               nothing
training            04_training           lab, moving_average, files/checkpoint, files/disk
visualization       05_visualization      lab
metrics             06_measuring_color    lab, similarity
losses              07_rare_colors        lab, metrics, similarity
These are written by the lessons' own cells (`#| export`): change the notebook, never the file.

By hand:
moving_average      what lesson 04 shows in a few lines, for every type of number and device
model_summary       what lesson 03 shows in a few lines: layers, parameters, multiply-adds, memory
similarity          SSIM and the colour difference CIEDE2000, by the book
measuring           every metric over a whole set, beside two trivial painters: metrics, similarity, lab, moving_average
shipped             the two checkpoints that come with the course: files/checkpoint, unet, losses
__main__            python -m colorize_utils: data
files/              where the outside is checked, with no lesson in it: sets (all of the below), pictures (folders,
                    zips, their store), downloads, checkpoint, disk (places, locks, advice; below all)
"""
