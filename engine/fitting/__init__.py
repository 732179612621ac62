"""What is fitted for a network: the count SVM from count-labelled images, the signatures from class-labelled ones.

``counter`` and ``signatures`` take features as arrays, ``features`` gathers them from batches, ``from_images`` runs the
network over labelled images and stores the result in a model directory.
"""
