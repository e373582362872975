// Made npm_patterns.json with @ruvector/sona 0.1.8: npm i @ruvector/sona@0.1.8 && node npm_patterns.cjs
const { SonaEngine } = require('@ruvector/sona');
const dim = 8;
const engine = SonaEngine.withConfig({ hiddenDim: dim, patternClusters: 4, qualityThreshold: 0.2 });
let seed = 7;
const noise = () => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed / 2147483648 - 0.5; };
for (let i = 0; i < 300; i++) {
  const topic = i % 2;
  const x = Array.from({ length: dim }, (_, j) => (j === topic ? 1 : 0) + 0.1 * noise());
  const id = engine.beginTrajectory(x);
  engine.addTrajectoryStep(id, x, [], 0.5 + 0.4 * topic);
  engine.setTrajectoryRoute(id, topic ? 'large' : 'small');
  engine.endTrajectory(id, 0.5 + 0.4 * topic);
}
console.error(engine.forceLearn());
console.log(JSON.stringify(engine.findPatterns(Array.from({ length: dim }, () => 1), 100)));
console.error(engine.getStats());
