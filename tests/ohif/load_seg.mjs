// node load_seg.mjs SEG SOURCE...  prints {"voxels": {"1": n, ...}, "labels": [...]}, or fails, as OHIF would on this SEG.
import { readFileSync } from 'node:fs';
import dcmjs from 'dcmjs';
import { adaptersSEG } from '@cornerstonejs/adapters';
import { metaData } from '@cornerstonejs/core';

const { DicomMessage, DicomMetaDictionary } = dcmjs.data;

function bytes(path) {
  const file = readFileSync(path);
  return file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
}

function header(path) {
  return DicomMetaDictionary.naturalizeDataset(DicomMessage.readFile(bytes(path)).dict);
}

// What OHIF takes where an image has no place, as a radiograph has none.
const usingDefaultValues = { ImageOrientationPatient: [1, 0, 0, 0, 1, 0], ImagePositionPatient: [0, 0, 0], PixelSpacing: [1, 1] };

function imagePlane(instance) {
  const [orientation, position, spacing] = Object.keys(usingDefaultValues).map((keyword) =>
    (instance[keyword] ?? usingDefaultValues[keyword]).map(Number)
  );
  return {
    imageOrientationPatient: orientation,
    imagePositionPatient: position,
    rowCosines: orientation.slice(0, 3),
    columnCosines: orientation.slice(3),
    rows: instance.Rows,
    columns: instance.Columns,
    pixelSpacing: spacing,
    rowPixelSpacing: spacing[0],
    columnPixelSpacing: spacing[1],
    frameOfReferenceUID: instance.FrameOfReferenceUID,
  };
}

const modules = {
  instance: (instance) => instance,
  frameNumber: () => 1,
  imagePlaneModule: imagePlane,
  imagePixelModule: (instance) => ({ rows: instance.Rows, columns: instance.Columns }),
  generalSeriesModule: (instance) => ({ seriesInstanceUID: instance.SeriesInstanceUID, modality: instance.Modality }),
  generalImageModule: (instance) => ({ sopInstanceUID: instance.SOPInstanceUID, sopInstanceUid: instance.SOPInstanceUID }),
  sopCommonModule: (instance) => ({ sopInstanceUID: instance.SOPInstanceUID, sopClassUID: instance.SOPClassUID }),
};

const [segPath, ...sourcePaths] = process.argv.slice(2);
const source = new Map(sourcePaths.map((path, n) => [`source:${n}`, header(path)]));
const metadataProvider = {
  get(type, imageId) {
    const instance = source.get(imageId);
    return instance && modules[type] ? modules[type](instance) : undefined;
  },
};
metaData.addProvider((type, imageId) => metadataProvider.get(type, imageId), 9999);

const loaded = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer([...source.keys()], bytes(segPath), {
  metadataProvider,
});
const voxels = {};
for (const image of loaded.labelMapImages.flat()) {
  for (const label of image.voxelManager.getScalarData()) {
    if (label) voxels[label] = (voxels[label] ?? 0) + 1;
  }
}
const labels = loaded.segMetadata.data.filter(Boolean).map((segment) => segment.SegmentLabel);
process.stdout.write(`\n${JSON.stringify({ voxels, labels })}\n`);
process.exit(0);
